"""The fields of a request that offer functions to the model, in OpenAI's dialect and beside it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import PrivateAttr

from codellama.compat.tools import offered
from codellama.errors import InvalidRequestError
from codellama.params import Tools
from codellama.prompts.tools import described
from codellama.protocol.body import Fields
from codellama.protocol.tolerance import note_ignored
from codellama.running.language_model import LanguageModel


class ToolFields(Fields):
    """The functions that a chat offers the model to call; `functions` are the older form."""

    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None

    parameters_place: ClassVar[str] = "tools[{i}].function.parameters"
    """Where the schema of a function is."""

    _may_call: bool = PrivateAttr(default=True)

    def forbid_calls(self) -> None:
        """Answer in words whatever functions are offered, as the server was told to."""
        self._may_call = False

    def offer(self) -> Tools | None:
        """What the model may call. Raises InvalidRequestError, also for a call that is asked for and
        forbidden."""
        offer = offered(
            self.tools,
            self.tool_choice,
            self.parallel_tool_calls,
            self.functions,
            self.function_call,
        )
        if self._may_call:
            return offer
        refuse_forced(offer, "function_call" if self.functions else "tool_choice")
        if offer is not None:
            note_ignored("functions" if self.functions else "tools")
        return None

    def offer_to(self, llm: LanguageModel) -> Tools | None:
        """`offer`; but functions that need not be called are left out, and noted as ignored, where telling
        the model of them takes more than half of its context. Some clients offer dozens with every chat.
        """
        offer = self.offer()
        if offer is None or offer.choice != "auto" or _fits(offer, llm):
            return offer
        note_ignored("functions" if self.functions else "tools")
        return None

    def respell_parameters(self, error: InvalidRequestError) -> None:
        """Let an error about a function's schema, which has the function's name, name its place."""
        match (error.param or "").split("."):
            case ["tools", name, "parameters"]:
                place = "functions[{i}].parameters" if self.functions else self.parameters_place
                offered = self.functions or [tool["function"] for tool in self.tools or ()]
                i = [function["name"] for function in offered].index(name)
                error.rename(place.format(i=i, name=name))


def _fits(offer: Tools, llm: LanguageModel) -> bool:
    text, most = described(offer), llm.n_ctx // 2
    return len(text.encode()) <= most or len(llm.tokenizer.encode(text)) <= most


def refuse_forced(offer: Tools | None, param: str) -> None:
    """For a server that was told to answer in words: an InvalidRequestError, which names `param`, if a call
    is asked for."""
    if offer is not None and offer.choice != "auto":
        raise InvalidRequestError(
            "{param} asks for a call, and this server answers in words only",
            param,
            "leave it out, or start the server with functions allowed",
        )
