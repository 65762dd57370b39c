"""llama-server's own dialect: `/completion`, `/infill`, `/tokenize`, `/detokenize`, `/apply-template`.

Shapes as in llama.cpp's tools/server (README.md, server-schema.cpp, server-task.cpp) with two
differences: sampling defaults are `SamplingParams`'s, and `tokens_cached` counts, as its README says,
the prompt tokens that were reused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from codellama.compat.openai import text_messages
from codellama.compat.replies import Json, Piece, timings_json, token_json
from codellama.engine.request import Delta, FinishReason
from codellama.errors import InvalidRequestError
from codellama.params import RANDOM_SEED, Prompt, SamplingParams
from codellama.prompts.prompts import prompt_text
from codellama.protocol.fields import (
    ALIASES,
    Fields,
    SamplingFields,
    mixed_tokens,
    parse_prompts,
)
from codellama.protocol.lora import lora_json
from codellama.protocol.tools import ToolFields
from codellama.running.collected import Collected

if TYPE_CHECKING:
    from codellama.running.completion import Completion
    from codellama.running.language_model import DialogRenderer, LanguageModel, TextTokenizer

NO_SLOT = -1
SNIPPET = "\n\n--- snippet ---\n\n"  # what llama-server puts before a text of input_extra


class NativeRequest(SamplingFields):
    """The body of `/completion`."""

    aliases = ALIASES | {"n_probs": "logprobs"}

    prompt: Any
    logprobs: int | None = None
    return_tokens: bool = False
    response_fields: list[str] | None = None

    @property
    def echo(self) -> bool:
        """This dialect has no echo."""
        return False

    def prompts(self, llm: LanguageModel) -> list[Prompt]:
        """One prompt for each in the body."""
        return parse_prompts(self.prompt, llm)

    def sampling(self, tokenizer: TextTokenizer) -> SamplingParams:
        """The sampling parameters asked for; `n_probs` 0 means no probabilities."""
        return self.params(tokenizer, logprobs=self.logprobs or None)

    def reply(self, llm: LanguageModel, completions: Sequence[Completion]) -> NativeReply:
        """What turns the answers into a response or its chunks."""
        return NativeReply(
            model=llm.name,
            piece=llm.tokenizer.piece,
            prompts=tuple(prompt_text(c.prompt, llm.tokenizer) for c in completions),
            params=completions[0].params,
            stream=self.stream,
            n=self.n,
            return_tokens=self.return_tokens,
            response_fields=tuple(self.response_fields or ()),
        )


class ExtraText(Fields):
    """A piece of another file, for `/infill`; editors add when they saw it."""

    no_effect = frozenset({"time"})

    text: str
    filename: str = ""


class InfillRequest(NativeRequest):
    """The body of `/infill`. `prompt` continues the prefix; `input_extra` goes before it."""

    prompt: Any = ""
    input_prefix: str
    input_suffix: str
    input_extra: list[ExtraText] = Field(default_factory=list)

    def prompts(self, llm: LanguageModel) -> list[Prompt]:
        """The one prompt of an infill request."""
        if not isinstance(self.prompt, str):
            raise InvalidRequestError("{param} must be a string", "prompt")
        extra = "".join(SNIPPET + chunk.text for chunk in self.input_extra)
        return [llm.infill_prompt(extra + self.input_prefix + self.prompt, self.input_suffix)]


class TokenizeRequest(Fields):
    """The body of `/tokenize`. In vLLM's words (`prompt`, `add_special_tokens`) it gets vLLM's answer
    and default: BOS first."""

    aliases = {"prompt": "content", "add_special_tokens": "add_special"}
    no_effect = frozenset({"model"})
    neutral = {"return_token_strs": (False,)}

    content: str | list[int | str]
    add_special: bool | None = None
    parse_special: bool = True
    with_pieces: bool = False

    def answer(self, tokenizer: TextTokenizer, n_ctx: int) -> Json:
        """The ids, or with pieces: text where it is UTF-8, bytes where not."""
        vllm = self._spelling["content"] == "prompt"
        content = [self.content] if isinstance(self.content, str) else self.content
        bos = vllm if self.add_special is None else self.add_special
        try:
            tokens = mixed_tokens(content, tokenizer, add_bos=bos, parse_special=self.parse_special)
        except InvalidRequestError as error:
            error.rename(self._spelling["content"])
            raise
        if self.with_pieces:
            return {"tokens": [{"id": t, "piece": _piece(t, tokenizer)} for t in tokens]}
        more = {"count": len(tokens), "max_model_len": n_ctx} if vllm else {}
        return {"tokens": tokens} | more


class DetokenizeRequest(Fields):
    """The body of `/detokenize`."""

    no_effect = frozenset({"model"})

    tokens: list[int]

    def answer(self, tokenizer: TextTokenizer) -> Json:
        """The text of the tokens, control tokens by their names: as llama-server's `content` and as
        vLLM's `prompt`."""
        pieces = [tokenizer.piece(t) or tokenizer.token_text(t).encode() for t in self.tokens]
        text = b"".join(pieces).decode("utf-8", "replace")
        return {"content": text, "prompt": text}


def tokenizer_info(tokenizer: TextTokenizer, chat_template: str | None) -> Json:
    """vLLM's `/tokenizer_info`, by which evaluation harnesses find out that they need no tokenizer of
    their own; `chat_template` is the one in the file."""
    return {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": tokenizer.token_text(tokenizer.bos),
        "eos_token": tokenizer.token_text(tokenizer.eos),
        "chat_template": chat_template,
    }


class TemplateRequest(ToolFields):
    """The body of `/apply-template`."""

    no_effect = frozenset({"model"})

    messages: list[dict[str, Any]]

    def answer(self, chat_format: DialogRenderer) -> Json:
        """The prompt that a chat with these messages and functions gets, as text."""
        return {"prompt": chat_format.render(text_messages(self.messages), self.offer())}


@dataclass(frozen=True)
class NativeReply:
    """Renders answers as `/completion` does. `prompts` are the texts, in order of the answers."""

    model: str
    piece: Piece
    prompts: tuple[str, ...]
    params: SamplingParams
    stream: bool
    n: int
    return_tokens: bool
    response_fields: tuple[str, ...]

    @property
    def ends_with_done(self) -> bool:
        """This dialect's streams end with the chunk whose `stop` is true."""
        return False

    def head(self, index: int) -> list[Json]:
        """Chunks that open the stream of a choice: none."""
        return []

    def chunks(self, answer: Collected, delta: Delta) -> list[Json]:
        """The chunks for what `delta` brought to `answer`."""
        chunks = []
        if delta.text or delta.tokens:
            chunk: Json = {
                "index": answer.index,
                "content": delta.text,
                "tokens": list(delta.tokens),
                "stop": False,
                "id_slot": NO_SLOT,
                "tokens_predicted": len(answer.tokens),
                "tokens_evaluated": answer.usage.prompt_tokens,
            }
            if delta.logprobs and self.params.logprobs:
                chunk["completion_probabilities"] = self._probabilities(delta)
            chunks.append(chunk)
        if delta.finish_reason:
            chunks.append(self._final(answer))
        return chunks

    def tail(self, answers: Sequence[Collected]) -> list[Json]:
        """Chunks that close the stream: none."""
        return []

    def whole(self, answers: Sequence[Collected]) -> Json | list[Json]:
        """The response that is not streamed; a list if there are several answers."""
        bodies = [self._final(answer) for answer in answers]
        return bodies[0] if len(bodies) == 1 else bodies

    def _final(self, answer: Collected) -> Json:
        body: Json = {
            "index": answer.index,
            "content": "" if self.stream else answer.text,
            "tokens": answer.tokens if self.return_tokens and not self.stream else [],
            "id_slot": NO_SLOT,
            "stop": True,
            "model": self.model,
            "tokens_predicted": answer.usage.completion_tokens,
            "tokens_evaluated": answer.usage.prompt_tokens,
            "generation_settings": generation_settings(self.params, self.stream),
            "prompt": self.prompts[answer.index // self.n],
            "has_new_line": "\n" in answer.text,
            "truncated": answer.truncated,
            "stop_type": stop_type(answer),
            "stopping_word": answer.stop if isinstance(answer.stop, str) else "",
            "tokens_cached": answer.usage.cached_tokens,
            "timings": timings_json(answer.timings, answer.usage),
        }
        if self.params.logprobs and not self.stream:
            body["completion_probabilities"] = self._probabilities(answer)
        return select_fields(body, self.response_fields) if self.response_fields else body

    def _probabilities(self, source: Collected | Delta) -> list[Json]:
        return [
            token_json(entry.token, entry.logprob, self.piece, ids=True)
            | {"top_logprobs": [token_json(i, p, self.piece, ids=True) for i, p in entry.top]}
            for entry in source.logprobs
        ]


def stop_type(answer: Collected) -> str:
    """llama-server's word for why an answer ended."""
    if answer.finish_reason is FinishReason.LENGTH:
        return "limit"
    if answer.finish_reason is FinishReason.STOP:
        return "word" if isinstance(answer.stop, str) else "eos"
    return "none"


def generation_settings(params: SamplingParams, stream: bool) -> Json:
    """The parameters that were used, under llama-server's names."""
    settings = asdict(params)
    max_tokens, logprobs = settings.pop("max_tokens"), settings.pop("logprobs")
    limit = -1 if max_tokens is None else max_tokens
    return settings | {
        "seed": RANDOM_SEED if params.seed is None else params.seed,
        "grammar": params.grammar or "",
        "lora": lora_json(params.lora),
        "logit_bias": [
            {"token": token, "bias": max(bias, -1e9)} for token, bias in params.logit_bias.items()
        ],
        "max_tokens": limit,
        "n_predict": limit,
        "n_probs": logprobs or 0,
        "stream": stream,
    }


def select_fields(body: Mapping[str, Any], names: Sequence[str]) -> Json:
    """`response_fields`: only these; `a/b` takes `b` out of the object `a`; unknown ones are left out."""
    selected: Json = {}
    for name in names:
        value: Any = body
        for part in name.split("/"):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            selected[name.rsplit("/", 1)[-1]] = value
    return selected


def _piece(token: int, tokenizer: TextTokenizer) -> str | list[int]:
    raw = tokenizer.piece(token) or tokenizer.token_text(token).encode()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return list(raw)
