"""Chat requests of other dialects, as OpenAI's: one way through the model for all of them.

A dialect's body says what it means as the body of a `ChatRequest`. What is left to it is the names in
errors and the shape of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, PrivateAttr, ValidationError
from typing_extensions import Self

from codellama.errors import InvalidRequestError
from codellama.params import ContextPolicy, Prompt
from codellama.protocol import limits
from codellama.protocol.body import respell
from codellama.protocol.errors import Json, validation_error
from codellama.protocol.fields import Items, PlainFields, Text
from codellama.protocol.openai import ChatRequest
from codellama.protocol.prompts import dropped_indices
from codellama.protocol.turns import Turns


class Extras(PlainFields):
    """llama-server's sampling fields, which every dialect takes beside its own."""

    seed: int | None = None
    logit_bias: (
        Annotated[dict[str, float | bool], Field(max_length=limits.BIASES)]
        | Annotated[list[list[int | str | float | bool]], Field(max_length=limits.BIASES)]
        | None
    ) = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    lark: str | None = None
    lora: Items[dict[str, Any]] | None = None
    samplers: Text | Items[Text] | None = None
    context_policy: ContextPolicy | None = None

    def given(self) -> Json:
        """Those that the client has given, as fields of a `ChatRequest`."""
        names = Extras.model_fields.keys() & self.model_fields_set
        return {name: getattr(self, name) for name in names}


class TranslatedChat(ChatRequest):
    """A chat that was asked for in another dialect; `renamed` is what the client calls a field."""

    renamed: ClassVar[Mapping[str, str]] = {}

    _turns: Turns = PrivateAttr()

    @classmethod
    def of(cls, turns: Turns, body: Mapping[str, Any]) -> Self:
        """The request with these turns and the other fields in `body`; None is left out.

        Raises InvalidRequestError in the client's words.
        """
        given = {name: value for name, value in body.items() if value is not None}
        try:
            chat = cls.model_validate({"messages": turns.messages(), **given})
        except ValidationError as error:
            refusal = validation_error(error.errors())
            respell(refusal, cls.renamed)
            raise refusal from None
        chat._turns = turns
        return chat

    def dropped_json(self, prompt: Prompt) -> Json:
        """What an answer says of turns that the context had no room for, if there are any: the numbers of
        the client's messages."""
        dropped = [
            n for turn in dropped_indices(self.messages, prompt) for n in self._turns.places(turn)
        ]
        return {"dropped_messages": dropped} if dropped else {}

    def respell(self, error: InvalidRequestError) -> None:
        """Put the error in the client's own spelling of the parameter."""
        super().respell(error)
        self._turns.respell(error)
        respell(error, self.renamed)
