"""The prompts of a request: messages, texts, token ids, mixes of both, and lists of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from codellama.compat.openai import UNREAD, text_messages
from codellama.errors import InvalidRequestError, check_text, unknown_token
from codellama.params import Message
from codellama.protocol import limits
from codellama.protocol.body import Fields
from codellama.protocol.tolerance import note_ignored

Messages = Annotated[list[dict[str, Any]], Field(max_length=limits.MESSAGES)]
"""The messages of a dialog, as objects."""


class Dialog(Fields):
    """The messages of a chat, and whether its last one is to be continued; the rules are llama-server's."""

    messages: Messages
    continue_final_message: bool | Literal["content"] | None = None
    add_generation_prompt: bool | None = None

    def dialog(self) -> list[Message]:
        """The messages, of which an assistant's at the end is continued. Raises InvalidRequestError."""
        messages = read_messages(self.messages)
        open_end = bool(messages) and messages[-1]["role"] == "assistant"
        if self.continue_final_message and self.add_generation_prompt is not False:
            raise InvalidRequestError(
                "{param} and add_generation_prompt exclude each other",
                "continue_final_message",
                "set add_generation_prompt to false",
            )
        if self.continue_final_message and not open_end:
            raise InvalidRequestError(
                "{param}: the last message must be the assistant's", "continue_final_message"
            )
        if self.add_generation_prompt is False and not open_end:
            raise InvalidRequestError(
                "{param} is not supported: leave it out", "add_generation_prompt"
            )
        return messages


if TYPE_CHECKING:
    from codellama.params import Prompt
    from codellama.running.language_model import LanguageModel, TextTokenizer


def read_messages(raw: Sequence[Mapping[str, Any]]) -> list[Message]:
    """OpenAI's messages as plain ones. Raises ChatFormatError.

    What is left out of them (a name, thoughts) is noted as ignored.
    """
    for name in UNREAD:
        if any(message.get(name) for message in raw):
            note_ignored(f"messages.{name}")
    return text_messages(raw)


def dropped_indices(messages: Sequence[Mapping[str, Any]], prompt: Prompt) -> tuple[int, ...]:
    """Where the turns that a prompt leaves out stand among `messages`: behind the system turn."""
    first = 1 if messages[0].get("role") in ("system", "developer") else 0
    return tuple(range(first, first + len(prompt.dropped)))


def parse_prompts(raw: Any, llm: LanguageModel) -> list[Prompt]:
    """The prompts in a `prompt` field: a text, token ids, a mix of both, or a list of these.

    A list that holds a number anywhere is one prompt; texts in a mix are tokenized on their own,
    the first one with BOS if it comes first. `{"prompt_string": text}` stands for the text.

    The text of a prompt is its author's, as in llama-server: the names of control tokens in it are these
    tokens. So a text that somebody else typed has to go into the messages of a chat or into an infill
    request, where it stays text, or be given as ids.
    """
    if isinstance(raw, list) and not any(_is_id(part) for part in raw):
        if not raw:
            raise InvalidRequestError("{param} must not be an empty list", "prompt")
        if len(raw) > limits.PROMPTS:
            raise InvalidRequestError(
                "{param} must not hold more than {most} prompts", "prompt", most=limits.PROMPTS
            )
        return [_prompt(part, llm) for part in raw]
    return [_prompt(raw, llm)]


def _prompt(raw: Any, llm: LanguageModel) -> Prompt:
    if isinstance(raw, dict):
        raw = _text_of(raw)
    if isinstance(raw, str):
        raw = [raw]
    if not isinstance(raw, list) or not raw:
        raise _prompt_error()
    return llm.complete_prompt(mixed_tokens(raw, llm.tokenizer, add_bos=True, parse_special=True))


def _text_of(raw: Mapping[str, Any]) -> Any:
    """The text of `{"prompt_string": text}` or of `{"content": parts}`, parts one after the other."""
    match raw:
        case {"prompt_string": text} if len(raw) == 1:
            return text
        case {"content": [_, *_] as parts} if len(raw) == 1:
            return "".join(_text_of_part(part) for part in parts)
    raise _prompt_error()


def _text_of_part(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    raise InvalidRequestError(
        "{param}: a part must be of type text: the model only reads text", "prompt"
    )


def mixed_tokens(
    raw: Sequence[Any], tokenizer: TextTokenizer, *, add_bos: bool, parse_special: bool = False
) -> list[int]:
    """Token ids of a list of ids and texts. Raises InvalidRequestError naming `prompt`.

    With `add_bos` a text that comes first has BOS before it; one that begins with the name of BOS has it.
    """
    tokens: list[int] = []
    for i, part in enumerate(raw):
        if isinstance(part, str):
            check_text(part, "prompt")
            part_tokens = tokenizer.encode(part, parse_special=parse_special)
            if add_bos and i == 0 and part_tokens[:1] != [tokenizer.bos]:
                tokens.append(tokenizer.bos)
            tokens += part_tokens
        elif _is_id(part):
            if not 0 <= part < tokenizer.n_vocab:
                raise unknown_token("prompt", part, tokenizer.n_vocab)
            tokens.append(part)
        else:
            raise _prompt_error()
    return tokens


def _prompt_error() -> InvalidRequestError:
    return InvalidRequestError(
        "{param} must be a text, a list of token ids, a list that mixes both, or a list of these",
        "prompt",
    )


def _is_id(part: Any) -> bool:
    return isinstance(part, int) and not isinstance(part, bool)
