"""The request fields that all dialects share, and what becomes of the others.

Every field of `SamplingParams` has its llama-server name here; a few more spellings are aliases. Those whose
JSON is plain follow from their declaration.
Fields that both dialects know but this server cannot honour are fine as long as they say nothing
(their neutral value) and a 400 that names them otherwise. Names nobody knows are a 400 too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    create_model,
    model_validator,
)
from typing_extensions import Self

from codellama.compat.openai import object_schema, response_schema, seed_or_random
from codellama.errors import InvalidRequestError, unknown_token
from codellama.params import FORMS, SamplingOptions, SamplingParams
from codellama.protocol.errors import unknown_parameter, validation_error
from codellama.protocol.lora import parse_lora
from codellama.running.collected import MOST_CHOICES
from codellama.settings import settings_of

if TYPE_CHECKING:
    from codellama.params import Prompt
    from codellama.running.language_model import LanguageModel, TextTokenizer

NO_LIMIT = -1  # of max_tokens, in llama-server's words

# Accepted whatever they say: they change nothing about the answer of this server.
NO_EFFECT = frozenset(
    {
        "model",
        "user",
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "parse_tool_calls",
        "n_cache_reuse",
        "t_max_prompt_ms",  # nor does it in llama-server
        "speculative.n_min",  # how long guesses are is measured here
        "speculative.p_min",
        "reasoning_format",
        "sse_ping_interval",
    }
)

# Accepted with these values only (null always is); any other value asks for what we cannot do.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # OpenAI
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "moderation": (),
    # llama-server
    "id_slot": (-1,),
    "min_keep": (0,),
    "dynatemp_range": (0,),
    "dynatemp_exponent": (1,),
    "adaptive_target": (-1,),
    "adaptive_decay": (0.9,),
    "post_sampling_probs": (False,),
    "backend_sampling": (False,),
    "timings_per_token": (False,),
    "return_progress": (False,),
    "verbose": (False,),
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "preserved_tokens": ([],),
    "reasoning_control": (False,),
    "reasoning_budget_tokens": (-1,),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "multimodal_data": ([],),
}

ALIASES = {
    "n_predict": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "n_cmpl": "n",
    "guided_regex": "regex",  # vLLM's
    "speculative.n_max": "spec_draft_n_max",  # llama-server's
}


class Fields(BaseModel):
    """A request body: strict types, no unknown names, null means "not given"."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    aliases: ClassVar[Mapping[str, str]] = {}
    no_effect: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    _spelling: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _only_known(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        given: dict[str, Any] = {}
        spelling: dict[str, str] = {}
        for name, value in data.items():
            field = cls.aliases.get(name, name)
            if field in cls.model_fields:
                if value is not None:
                    if field in given and given[field] != value:
                        raise _given_twice(name, spelling[field])
                    given[field] = value
                    spelling[field] = name
            elif not cls._says_nothing(name, value):
                raise _refusal(name, cls)
        try:
            model = handler(given)
        except ValidationError as error:
            refusal = validation_error(error.errors())
            respell(refusal, spelling)
            raise refusal from None
        model._spelling = spelling
        return model

    @classmethod
    def _says_nothing(cls, name: str, value: Any) -> bool:
        if name in cls.no_effect:
            return True
        return name in cls.neutral and (value is None or _is_one_of(value, cls.neutral[name]))


class StreamOptions(Fields):
    """OpenAI's `stream_options`."""

    neutral = {"include_obfuscation": (False,)}

    include_usage: bool = False


# What a dialect writes otherwise than Python; every other sampling parameter is a plain field.
OWN_FORM = frozenset({"max_tokens", "seed", "stop", "logit_bias", "lora", "logprobs", *FORMS})


def wire_type(kind: Any) -> Any:
    """The JSON type of a setting: a list where it is a tuple, else the same.

    Raises TypeError for a type that has no plain form; its field has to be written by hand.
    """
    if kind in (int, float, bool, str):
        return kind
    if get_origin(kind) is tuple and get_args(kind)[0] in (int, float, str):
        return list[get_args(kind)[0]]  # type: ignore[misc]
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


class SamplingFields(PlainFields):
    """How an answer is drawn and delivered, in both dialects. Defaults are the server's (`default_to`)
    or else `SamplingParams`'s."""

    aliases = ALIASES
    no_effect = NO_EFFECT
    neutral = NEUTRAL

    default_limit: ClassVar[int | None] = None  # of tokens, if neither request nor server says one

    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = None
    logit_bias: dict[str, float | bool] | list[list[int | str | float | bool]] | None = None
    seed: int | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    lark: str | None = None
    response_format: dict[str, Any] | None = None
    stop: str | list[str] | None = None
    lora: list[dict[str, Any]] | None = None

    _defaults: SamplingOptions = PrivateAttr(default_factory=SamplingOptions)

    def default_to(self, defaults: SamplingOptions) -> None:
        """Take these for what the request does not say."""
        self._defaults = defaults

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
        if self.stop is not None:
            options["stop"] = self.stop or ()  # an empty text is no stop, as in llama-server
        if self.logit_bias is not None:
            options["logit_bias"] = token_biases(self.logit_bias, tokenizer)
        if self.lora:
            options["lora"] = parse_lora(self.lora)
        options |= self._form()
        try:
            return SamplingParams.of(**options)
        except InvalidRequestError as error:
            self.respell(error)
            raise

    def respell(self, error: InvalidRequestError) -> None:
        """Put the error in the client's own spelling of the parameter."""
        spelling = self._spelling
        if self.response_format is not None:
            spelling = {**spelling, "json_schema": "response_format"}
        respell(error, spelling)

    def _form(self) -> dict[str, Any]:
        """What the answer may be, if the request says anything about it."""
        form = {name: getattr(self, name) for name in FORMS}
        if self.response_format is None and all(value is None for value in form.values()):
            return {}
        return form | {"grammar": self.grammar or None, "json_schema": self._schema()}

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

    A key may be an id, its decimal spelling, or a text, whose tokens all get the bias; the bias
    `false` bans a token.
    """
    pairs = raw.items() if isinstance(raw, Mapping) else [_pair(entry) for entry in raw]
    biases = {}
    for key, bias in pairs:
        value = _bias(bias)
        for token in _tokens(key, tokenizer):
            biases[token] = value
    return biases


def parse_prompts(raw: Any, llm: LanguageModel) -> list[Prompt]:
    """The prompts in a `prompt` field: a text, token ids, a mix of both, or a list of these.

    A list that holds a number anywhere is one prompt; texts in a mix are tokenized on their own,
    the first one with BOS if it comes first. `{"prompt_string": text}` stands for the text.
    """
    if isinstance(raw, list) and not any(_is_id(part) for part in raw):
        if not raw:
            raise InvalidRequestError("{param} must not be an empty list", "prompt")
        return [_prompt(part, llm) for part in raw]
    return [_prompt(raw, llm)]


def _prompt(raw: Any, llm: LanguageModel) -> Prompt:
    if isinstance(raw, dict) and raw.keys() == {"prompt_string"}:
        raw = raw["prompt_string"]
    if isinstance(raw, str):
        return llm.complete_prompt(raw)
    if not isinstance(raw, list) or not raw:
        raise _prompt_error()
    return llm.complete_prompt(mixed_tokens(raw, llm.tokenizer, add_bos=True))


def mixed_tokens(
    raw: Sequence[Any], tokenizer: TextTokenizer, *, add_bos: bool, parse_special: bool = False
) -> list[int]:
    """Token ids of a list of ids and texts. Raises InvalidRequestError naming `prompt`."""
    tokens: list[int] = []
    for i, part in enumerate(raw):
        if isinstance(part, str):
            bos = add_bos and i == 0
            tokens += tokenizer.encode(part, add_bos=bos, parse_special=parse_special)
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


def _given_twice(name: str, other: str) -> InvalidRequestError:
    return InvalidRequestError(
        "{other} and {param} are one parameter: give it once", name, other=other
    )


def respell(error: InvalidRequestError, spelling: Mapping[str, str]) -> None:
    """Put the error in the client's own spelling of the parameter."""
    name = spelling.get(error.param or "")
    if name is not None:
        error.rename(name)


def _refusal(name: str, cls: type[Fields]) -> InvalidRequestError:
    if name in cls.neutral:
        return InvalidRequestError("{param} is not supported: leave it out", name)
    return unknown_parameter(name, [*cls.model_fields, *cls.aliases, *cls.no_effect, *cls.neutral])


def _is_one_of(value: Any, allowed: Sequence[Any]) -> bool:
    """Equality in which true is not 1 and false is not 0."""
    return any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed)


def _is_id(part: Any) -> bool:
    return isinstance(part, int) and not isinstance(part, bool)


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
    if isinstance(key, str) and not key.isdecimal():
        return tokenizer.encode(key)
    token = int(key)
    if not 0 <= token < tokenizer.n_vocab:
        raise unknown_token("logit_bias", token, tokenizer.n_vocab)
    return [token]
