"""An outlines model on an `LLM`: the engine enforces its output types, without Python at each token.

::

    from codellama import LLM
    from codellama.integrations.outlines import OutlinesModel

    with LLM("demo.gguf") as llm:
        model = OutlinesModel(llm)
        print(model("Is water wet?", Literal["yes", "no"]))

outlines' own `from_llamacpp(codellama.Llama(...))` works too, with its logits processors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from outlines.inputs import Chat
from outlines.models.base import Model
from outlines.types.dsl import CFG, JsonSchema, python_types_to_terms, to_regex

from codellama.errors import InvalidRequestError
from codellama.params import Message
from codellama.running.completion import Completion
from codellama.running.language_model import LanguageModel


class OutlinesModel(Model):
    """Call it, or its `stream`, with a prompt and an output type.

    outlines' `Generator` takes no models but its own; `outlines.generator.BlackBoxGenerator` takes this one.
    """

    def __init__(self, llm: LanguageModel, chat_mode: bool = True) -> None:
        """A text is one user turn, or with `chat_mode` false what is to be continued."""
        self.llm = llm
        self._chat_mode = chat_mode

    def __call__(
        self, model_input: Any, output_type: Any = None, backend: Any = None, **params: Any
    ) -> str:
        """The whole answer. `params` are the fields of `SamplingParams`; there is one `backend`, the engine.

        Raises what `LLM.chat` raises.
        """
        return self.generate(model_input, output_type, **params)

    def stream(
        self, model_input: Any, output_type: Any = None, backend: Any = None, **params: Any
    ) -> Iterator[str]:
        """The answer in pieces."""
        return self.generate_stream(model_input, output_type, **params)

    def generate(self, model_input: Any, output_type: Any = None, **params: Any) -> str:
        """The whole answer."""
        return self._ask(model_input, output_type, params).text()

    def generate_stream(
        self, model_input: Any, output_type: Any = None, **params: Any
    ) -> Iterator[str]:
        """The answer in pieces."""
        yield from self._ask(model_input, output_type, params)

    def generate_batch(
        self, model_input: list[Any], output_type: Any = None, **params: Any
    ) -> list[str]:
        """The answers to several prompts, which the engine writes at once."""
        running = [self._ask(one, output_type, params) for one in model_input]
        return [completion.text() for completion in running]

    def batch(
        self, model_input: list[Any], output_type: Any = None, backend: Any = None, **params: Any
    ) -> list[str]:
        """See `generate_batch`."""
        return self.generate_batch(model_input, output_type, **params)

    def _ask(self, model_input: Any, output_type: Any, params: dict[str, Any]) -> Completion:
        params = params | _form(output_type)
        if isinstance(model_input, Chat):
            messages = [
                Message(role=message["role"], content=message["content"])
                for message in model_input.messages
            ]
            return self.llm.chat(messages, **params)
        if not isinstance(model_input, str):
            raise InvalidRequestError("{param} must be text or a Chat", "model_input")
        ask = self.llm.chat if self._chat_mode else self.llm.complete
        return ask(model_input, **params)


def _form(output_type: Any) -> dict[str, Any]:
    """The parameter of a request that holds its answer to an output type."""
    if output_type is None:
        return {}
    term = python_types_to_terms(output_type)
    if isinstance(term, JsonSchema):
        return {"json_schema": term.schema}
    if isinstance(term, CFG):
        return {"lark": term.definition}
    return {"regex": to_regex(term)}
