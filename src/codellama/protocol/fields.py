"""The request fields that all dialects share, and what becomes of the others.

Every field of `SamplingParams` has its llama-server name here; a few more spellings are aliases. Those whose
JSON is plain follow from their declaration. What else clients send is sorted out by `Fields`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import Field, PrivateAttr, create_model

from codellama.compat.openai import object_schema, response_schema, seed_or_random
from codellama.errors import InvalidRequestError, check_text, unknown_token
from codellama.params import FORMS, SamplingOptions, SamplingParams
from codellama.protocol import limits
from codellama.protocol.body import Fields, respell
from codellama.protocol.guided import GuidedFields, exclusive
from codellama.protocol.known import ALIASES
from codellama.protocol.lora import parse_lora
from codellama.protocol.tolerance import note_ignored
from codellama.running.collected import MOST_CHOICES
from codellama.settings import settings_of

if TYPE_CHECKING:
    from codellama.running.language_model import TextTokenizer

NO_LIMIT = -1  # of max_tokens, in llama-server's words


class StreamOptions(Fields):
    """OpenAI's `stream_options`."""

    no_effect = frozenset({"include_obfuscation"})  # padding that hides how long a token is
    ignored = {}
    neutral = {}
    place = "stream_options."

    include_usage: bool = False


Text = Annotated[str, Field(max_length=limits.STOP_CHARS)]
"""A text in a list of settings."""
T = TypeVar("T")
Items = Annotated[list[T], Field(max_length=limits.LIST_ITEMS)]
"""A list of settings."""

# What a dialect writes otherwise than Python; every other sampling parameter is a plain field.
OWN_FORM = frozenset(
    {"max_tokens", "seed", "stop", "logit_bias", "lora", "logprobs", "samplers", *FORMS}
)


@functools.cache
def wire_type(kind: Any) -> Any:
    """The JSON type of a setting: a list where it is a tuple, else the same.

    Raises TypeError for a type that has no plain form; its field has to be written by hand.
    """
    if kind is str:
        return Text
    if kind in (int, float, bool):
        return kind
    if get_origin(kind) is tuple and get_args(kind)[0] in (int, float, str):
        item = wire_type(get_args(kind)[0])
        return Annotated[list[item], Field(max_length=limits.LIST_ITEMS)]  # type: ignore[valid-type]
    raise TypeError(f"{kind} has no plain JSON form: name the parameter in OWN_FORM")


if TYPE_CHECKING:  # no code reads these by name, so no type checker need know them
    PlainFields = Fields
else:
    PlainFields = create_model(
        "PlainFields",
        __base__=Fields,
        **{
            declared.name: (wire_type(declared.kind) | None, None)
            for declared in settings_of(SamplingParams)
            if declared.name not in OWN_FORM
        },
    )


class SamplingFields(GuidedFields, PlainFields):
    """How an answer is drawn and delivered, in both dialects. Defaults are the server's (`default_to`)
    or else `SamplingParams`'s."""

    aliases = ALIASES

    default_limit: ClassVar[int | None] = None  # of tokens, if neither request nor server says one

    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = None
    logit_bias: (
        Annotated[dict[str, float | bool], Field(max_length=limits.BIASES)]
        | Annotated[list[list[int | str | float | bool]], Field(max_length=limits.BIASES)]
        | None
    ) = None
    seed: int | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    lark: str | None = None
    response_format: dict[str, Any] | None = None
    stop: Text | Items[Text] | None = None
    lora: Items[dict[str, Any]] | None = None
    samplers: Text | Items[Text] | None = None
    response_fields: Items[Text] | None = None
    timings_per_token: bool = False
    return_progress: bool = False
    verbose: bool = False

    _defaults: SamplingOptions = PrivateAttr(default_factory=SamplingOptions)

    def default_to(self, defaults: SamplingOptions, verbose: bool = False) -> None:
        """Take these for what the request does not say."""
        self._defaults = defaults
        if "verbose" not in self.model_fields_set:
            self.verbose = verbose

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer; None is as many as the context has room for."""
        if self.max_tokens is not None:
            return None if self.max_tokens == NO_LIMIT else self.max_tokens
        return self._defaults.get("max_tokens", self.default_limit)

    def params(self, tokenizer: TextTokenizer, *, logprobs: int | None) -> SamplingParams:
        """The sampling parameters asked for; raises InvalidRequestError naming the field."""
        options: dict[str, Any] = {**self._defaults}
        for declared in settings_of(SamplingParams):
            value = getattr(self, declared.name, None)
            if value is not None and declared.name not in OWN_FORM:
                options[declared.name] = value
        options["t_max_predict_ms"] = max(0, options.get("t_max_predict_ms", 0))
        options["logprobs"] = logprobs
        options["max_tokens"] = self.limit
        if self.seed is not None:
            options["seed"] = seed_or_random(self.seed)
        elif "seed" in options:
            options.setdefault("repeatable", False)  # nobody asked for it, and it costs caches
        if self.stop is not None:
            options["stop"] = self.stop or ()  # an empty text is no stop, as in llama-server
        if self.logit_bias is not None:
            options["logit_bias"] = token_biases(self.logit_bias, tokenizer)
        if self.samplers is not None:
            options["samplers"] = self.samplers
        if self.lora:
            options["lora"] = parse_lora(self.lora)
        options |= self._form()
        try:
            return SamplingParams.of(**options)
        except InvalidRequestError as error:
            self.respell(error)
            raise

    @property
    def reports(self) -> bool:
        """Whether each event of a stream is to have figures of its own."""
        return self.stream and (self.timings_per_token or self.return_progress)

    def picked_fields(self) -> tuple[str, ...]:
        """The `response_fields` of a whole answer; OpenAI's streams have no place for them."""
        if self.response_fields is not None and self.stream:
            note_ignored("response_fields")
            return ()
        return tuple(self.response_fields or ())

    def respell(self, error: InvalidRequestError) -> None:
        """Put the error in the client's own spelling of the parameter."""
        spelling = self._spelling | {param: field for param, (field, _) in self._guided.items()}
        if self.response_format is not None:
            spelling = {**spelling, "json_schema": "response_format"}
        respell(error, spelling)

    def _form(self) -> dict[str, Any]:
        """What the answer may be, if the request says anything about it."""
        form = {name: getattr(self, name) for name in FORMS}
        guided = {param: value for param, (_, value) in self._guided.items()}
        given = (self.response_format, *form.values(), *guided.values())
        if all(value is None for value in given):
            return {}
        form |= {"grammar": self.grammar or None, "json_schema": self._schema()}
        for param, (field, _) in self._guided.items():
            if form[param] is not None:
                raise exclusive(field, self._spelling.get(param, "response_format"))
        return form | guided

    @property
    def candidates(self) -> int:
        """How many answers are written to every prompt."""
        return self.n

    def _schema(self) -> Mapping[str, Any] | None:
        if self.json_schema is None:
            return response_schema(self.response_format)
        if self.response_format is not None:
            raise InvalidRequestError(
                "{param} and response_format exclude each other: give one", "json_schema"
            )
        return object_schema(self.json_schema, "json_schema")


def token_biases(
    raw: Mapping[str, float | bool] | Sequence[Sequence[int | str | float | bool]],
    tokenizer: TextTokenizer,
) -> dict[int, float]:
    """llama-server's `logit_bias`, an object or a list of pairs, as token id to bias.

    A text stands for its tokens, which all get the bias. An object's key that spells a whole number is an
    id; in a pair `7` is an id and `"7"` a text. The bias
    `false` bans a token. What several entries say of a token adds up.
    """
    if isinstance(raw, Mapping):
        pairs = [(_id_or_text(key), bias) for key, bias in raw.items()]
    else:
        pairs = [_pair(entry) for entry in raw]
    biases: dict[int, float] = {}
    for key, bias in pairs:
        value = _bias(bias)
        for token in _tokens(key, tokenizer):
            biases[token] = biases.get(token, 0.0) + value
    return biases


def _pair(entry: Sequence[Any]) -> tuple[Any, Any]:
    if len(entry) != 2 or isinstance(entry[0], (bool, float)):
        raise InvalidRequestError(
            "{param} as a list must hold pairs of a token (id or text) and a bias", "logit_bias"
        )
    return entry[0], entry[1]


def _bias(bias: Any) -> float:
    if bias is False:
        return -math.inf
    if isinstance(bias, (int, float)) and bias is not True:
        return float(bias)
    raise InvalidRequestError(
        "{param}: a bias must be a number or false; got {bias!r}", "logit_bias", bias=bias
    )


def _tokens(key: int | str, tokenizer: TextTokenizer) -> list[int]:
    if isinstance(key, str):
        check_text(key, "logit_bias")
        return tokenizer.encode(key)
    if not 0 <= key < tokenizer.n_vocab:
        raise unknown_token("logit_bias", key, tokenizer.n_vocab)
    return [key]


def _id_or_text(key: str) -> int | str:
    digits = key.removeprefix("-")
    return int(key) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else key
