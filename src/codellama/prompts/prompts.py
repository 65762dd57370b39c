"""Every way of making a prompt for one model: chat, completion, infill.

What the model is (its row of the truth table, its vocabulary, its template) decides what it can be asked;
a tokenizer is enough, no weights are needed. `corrections` says what to override when a GGUF is loaded
whose converter got something wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from typing_extensions import assert_never

from codellama.errors import InvalidRequestError, UnsupportedError, check_text
from codellama.params import Message, ModelConfig, Prompt, Tools
from codellama.prompts.chat import (
    ChatFormat,
    InstFormat,
    TurnFormat,
    Vocabulary,
    encode_parts,
    live_tags,
    split_tags,
)
from codellama.prompts.history import drop_oldest
from codellama.prompts.infill import InfillFormat
from codellama.variants import STEP, ChatFormatName, Variant


class Decoder(Protocol):
    """What is needed of a tokenizer to turn ids back into text."""

    @property
    def add_space_prefix(self) -> bool:
        """Whether a text gets a space put before it."""

    def decode(self, tokens: Sequence[int], /) -> str:
        """The text of token ids."""


def prompt_text(prompt: Prompt, tokenizer: Decoder) -> str:
    """What was tokenized: without the space that the vocabulary put before it."""
    text = tokenizer.decode(prompt.tokens)
    return text.removeprefix(" ") if tokenizer.add_space_prefix else text


class FullVocabulary(Vocabulary, Protocol):
    """A vocabulary whose size is known."""

    @property
    def n_vocab(self) -> int:
        """Number of tokens."""


class Prompts:
    """Prompts for the model `name`. `chat_format` is None if it has none."""

    def __init__(
        self,
        name: str,
        vocabulary: FullVocabulary,
        metadata: Mapping[str, Any],
        variant: Variant | None,
        config: ModelConfig,
    ) -> None:
        """Raises UnsupportedError if `config.chat_format` asks for what the vocabulary lacks."""
        self._name = name
        self._vocabulary = vocabulary
        self._variant = variant
        self._config = config
        self.chat_format: ChatFormat | None = None
        chosen = config.chat_format or chat_format_name(metadata, variant)
        match chosen:
            case "turn":
                self.chat_format = TurnFormat(vocabulary, config.special_tags)
            case "inst":
                self.chat_format = InstFormat(vocabulary, config.special_tags)
            case "none":
                pass
            case _:
                assert_never(chosen)

    def chat(self, messages: str | Iterable[Message], tools: Tools | None = None) -> Prompt:
        """The ids of a dialog; a text is one user turn. The system turn speaks of `tools`.

        Raises ChatFormatError, UnsupportedError; InvalidRequestError for tools of another class, or where
        there is no chat.
        """
        if tools is not None and not isinstance(tools, Tools):
            raise InvalidRequestError(
                "{param} must be of the class Tools",
                "tools",
                "for OpenAI's dictionaries use create_chat_completion",
            )
        if self.chat_format is None and tools is not None:
            raise InvalidRequestError(
                "{param}: {name} has no chat format: it is a base or Python model",
                "tools",
                "load an Instruct model",
                name=self._name,
            )
        if self.chat_format is None:
            raise UnsupportedError(
                f"{self._name} has no chat format: it is a base or Python model; use complete"
            )
        if isinstance(messages, str):
            messages = [Message(role="user", content=messages)]
        return self.chat_format.encode(messages, tools)

    def chat_within(
        self,
        messages: list[Message],
        n_ctx: int,
        max_tokens: int | None,
        tools: Tools | None = None,
    ) -> Prompt:
        """The ids of a dialog without its oldest turns, as many as leave room in `n_ctx` tokens for an
        answer of `max_tokens` (None: a quarter of them); they are in `dropped`."""
        self.chat(messages, tools)  # a wrong dialog is an error as it stands
        answer = n_ctx // 4 if max_tokens is None else min(max_tokens, n_ctx - 1)
        room = n_ctx - answer
        kept, dropped = drop_oldest(
            messages, lambda some: len(self.chat(some, tools).tokens) <= room
        )
        return replace(self.chat(kept, tools), dropped=tuple(dropped))

    def complete(self, prompt: str | Sequence[int]) -> Prompt:
        """BOS and the text as plain text; token ids are taken as they are."""
        if isinstance(prompt, str):
            check_text(prompt, "prompt")
            parts = split_tags(prompt, self._live_tags)
            tokens = encode_parts(self._vocabulary, parts) if prompt else []
            return Prompt((self._vocabulary.bos, *tokens))
        if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, Iterable):
            raise InvalidRequestError(
                "{param} must be a text or token ids; got {kind}",
                "prompt",
                kind=type(prompt).__name__,
            )
        tokens = list(prompt)
        for token in tokens:
            if not isinstance(token, int) or not 0 <= token < self._vocabulary.n_vocab:
                raise InvalidRequestError(
                    "{param}: {token!r} is not a token id from 0 to {last}",
                    "prompt",
                    token=token,
                    last=self._vocabulary.n_vocab - 1,
                )
        if not tokens:
            raise InvalidRequestError(
                "{param} is empty: give text or at least one token id", "prompt"
            )
        return Prompt(tuple(tokens))

    def infill(self, prefix: str, suffix: str) -> Prompt:
        """The ids that ask for what stands between `prefix` and `suffix`. Raises UnsupportedError."""
        variant = self._variant
        if variant is not None and variant.infill == "no":
            raise UnsupportedError(
                f"CodeLlama {variant.name} was not trained for infilling: use 7B or 13B, base or Instruct"
            )
        if (
            variant is not None
            and variant.infill == "experimental"
            and not self._config.experimental_infill
        ):
            raise UnsupportedError(
                f"Meta's pages disagree on whether CodeLlama {variant.name} was trained for infilling",
                "set {experimental_infill} to try it",
            )
        return InfillFormat(self._vocabulary, self._config.special_tags).encode(prefix, suffix)

    @functools.cached_property
    def _live_tags(self) -> tuple[str, ...]:
        return live_tags(self._vocabulary)


def chat_format_name(metadata: Mapping[str, Any], variant: Variant | None) -> ChatFormatName:
    """The chat format of a GGUF: told by `<step>` in its vocabulary, the truth table, its template."""
    if STEP in (metadata.get("tokenizer.ggml.tokens") or []):
        return "turn"
    if variant is not None:
        return variant.chat_format
    return "inst" if "[INST]" in str(metadata.get("tokenizer.chat_template")) else "none"


def corrections(
    metadata: Mapping[str, Any], variant: Variant | None
) -> dict[str, int | float | bool]:
    """Metadata that other converters get wrong, as overrides for loading.

    A vocabulary with `<step>` has it as its end of turn (they write 32010), and a tokenizer that puts
    no space before a text (they leave that out), wherever `<step>` stands in it.
    """
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    fixes: dict[str, int | float | bool] = {}
    if STEP in tokens:
        fixes["tokenizer.ggml.eot_token_id"] = tokens.index(STEP)
    if STEP in tokens or (variant is not None and not variant.dummy_prefix):
        fixes["tokenizer.ggml.add_space_prefix"] = False
    return fixes
