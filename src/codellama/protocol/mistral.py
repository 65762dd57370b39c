"""Mistral's `/v1/fim/completions`: what stands between `prompt` and `suffix`, answered as a chat is.

Shapes: https://docs.mistral.ai/api/endpoint/fim. Without `suffix` the prompt is gone on from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from codellama.params import Prompt
from codellama.protocol.fields import Items, Text
from codellama.protocol.known import FIGURES, IGNORED
from codellama.protocol.prompts import parse_prompts
from codellama.protocol.translated import Extras, TranslatedChat
from codellama.protocol.turns import Turns

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel


class FimCompletion(TranslatedChat):
    """An infill that is answered as a chat is."""

    renamed = {"seed": "random_seed"}

    _suffix: str | None = PrivateAttr()

    def prompts(self, llm: LanguageModel) -> list[Prompt]:
        """The one prompt."""
        prompt: str = self.messages[0]["content"]
        if self._suffix is None:
            return parse_prompts(prompt, llm)
        return [llm.infill_prompt(prompt, self._suffix)]


class FimRequest(Extras):
    """The body of `/v1/fim/completions`."""

    aliases = {"random_seed": "seed"}
    no_effect = frozenset({"model", "metadata"})
    ignored = {**IGNORED, **FIGURES}
    neutral = {"min_tokens": (0,)}

    prompt: str
    suffix: str | None = None
    max_tokens: int | None = None
    stop: Text | Items[Text] | None = None
    stream: bool = False

    def chat(self) -> FimCompletion:
        """What the body asks for. Raises InvalidRequestError."""
        turns = Turns("prompt")
        turns.add({"role": "user", "content": self.prompt}, "prompt")
        own: dict[str, Any] = {
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            "stream": self.stream,
            # Mistral's streams end with the counts.
            "stream_options": {"include_usage": self.stream},
        }
        asked = FimCompletion.of(turns, self.given() | own)
        asked._suffix = self.suffix
        return asked
