"""Every error this package raises on purpose, in one tree.

::

    CodeLlamaError
    ├── InvalidRequestError (ValueError)   a request that can never work; `.param` names the culprit
    │   ├── ContextLengthError             prompt (and output) longer than the context
    │   ├── ChatFormatError                role order, unknown role, special tags, empty dialog
    │   └── GrammarError                   a grammar or JSON schema that cannot be enforced
    ├── UnsupportedError                   right request, wrong model or build
    ├── QueueFullError                     too many requests wait; try again later
    ├── EngineDeadError                    the engine has stopped; load the model again
    ├── DecodeError                        llama.cpp failed on a batch
    ├── ModelLoadError                     a GGUF that cannot be read, or does not fit
    ├── CheckpointError                    a Hugging Face checkpoint that cannot be trusted or read
    └── ConversionError                    writing the GGUF failed (type, disk, imatrix)

Catch the root to catch all of them::

    try:
        print(llm.chat(messages).text())
    except codellama.ContextLengthError as error:
        print("too long:", error.n_prompt, "of", error.n_ctx)
    except codellama.CodeLlamaError as error:
        print(error)
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

from typing_extensions import Self


class CodeLlamaError(Exception):
    """Root of all errors raised on purpose by this package.

    The text is composed of `sentence`, what is wrong, and `remedy`, what to do about it. A remedy writes
    the settings that it speaks of as `{n_ctx}`: Python's spelling by default, an option's on the command
    line (see `spelled`). The text begins with `setting`, the name of the one that is at fault, if given.
    """

    def __init__(self, sentence: str, remedy: str = "", setting: str = "") -> None:
        self.sentence = sentence
        self.remedy = remedy
        self.setting = setting
        super().__init__(self.spelled({}))

    def __reduce__(self) -> tuple[Any, ...]:
        # Made again from its parts: the text alone is no template of itself.
        return _remade, (type(self), self.args, self.__dict__)

    def spelled(self, names: Mapping[str, str]) -> str:
        """The text with settings named as in `names`; those that are not in it keep their own name."""
        sentence = self._sentence(names)
        return f"{sentence}: {_filled(self.remedy, names, {})}" if self.remedy else sentence

    def about(self, setting: str) -> Self:
        """Say that it is this setting's value that is at fault; returns the error itself."""
        self.setting, self.sentence = setting, f": {self.sentence}"
        self.args = (self.spelled({}),)
        return self

    def _sentence(self, names: Mapping[str, str]) -> str:
        return names.get(self.setting, self.setting) + self.sentence


def _filled(template: str, names: Mapping[str, str], values: Mapping[str, object]) -> str:
    """The template with its values; a name that has none is that of a setting, spelled as in `names`.

    A text with braces that are no template's, as other people's code may raise, stays as it is.
    """
    try:
        fields = {name.partition(".")[0] for _, name, _, _ in Formatter().parse(template) if name}
        return template.format_map({name: names.get(name, name) for name in fields} | dict(values))
    except (ValueError, IndexError, AttributeError):
        return template


def _remade(
    kind: type[CodeLlamaError], args: tuple[Any, ...], parts: dict[str, Any]
) -> CodeLlamaError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(parts)
    return error


class InvalidRequestError(CodeLlamaError, ValueError):
    """A request that cannot work as it is written.

    `param` is the name of the offending parameter, or None if no single one is at fault. In the sentence
    `{param}` stands for it, other names in braces for `values`, or else for settings::

        InvalidRequestError("{param} must be at least {least}", "n", least=1)
        InvalidRequestError("{param} must not be larger than {n_batch}", "n_ubatch")
    """

    def __init__(
        self, sentence: str, param: str | None = None, remedy: str = "", **values: object
    ) -> None:
        self.param = param
        self.values = values
        super().__init__(sentence, remedy)

    def _sentence(self, names: Mapping[str, str]) -> str:
        param = self.param or ""
        return _filled(self.sentence, names, {"param": names.get(param, param), **self.values})

    def rename(self, name: str) -> Self:
        """Call the parameter `name`, as the caller spelled it; returns the error itself."""
        self.param = name
        self.args = (self.spelled({}),)
        return self


class ContextLengthError(InvalidRequestError):
    """The prompt does not fit the context; `n_prompt` and `n_ctx` are in tokens.

    `trained` is the context that the model was trained for: a larger one is no remedy. The words are those
    by which clients of llama-server know what is wrong.
    """

    def __init__(
        self, n_prompt: int, n_ctx: int, param: str = "prompt", *, trained: int | None = None
    ) -> None:
        largest = trained is not None and n_ctx >= trained
        what = "the text is too large" if param == "input" else "the prompt is too long"
        super().__init__(
            what
            + ", with {n_prompt} tokens it exceeds the available context size of {n_ctx} tokens",
            param,
            "shorten the prompt; the model was trained for no more"
            if largest
            else "shorten the prompt or load the model with a larger {n_ctx}",
            n_prompt=n_prompt,
            n_ctx=n_ctx,
        )
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class ChatFormatError(InvalidRequestError):
    """Messages that the model's chat format cannot express."""

    def __init__(
        self, sentence: str, param: str = "messages", remedy: str = "", **values: object
    ) -> None:
        super().__init__(sentence, param, remedy, **values)


class GrammarError(InvalidRequestError):
    """A grammar, JSON schema or regular expression that is wrong, too large or cannot be enforced."""

    def __init__(
        self, sentence: str, param: str = "grammar", remedy: str = "", **values: object
    ) -> None:
        super().__init__(sentence, param, remedy, **values)


def check_text(text: str, param: str, place: str = "") -> None:
    """Raise InvalidRequestError if the text, at `place` in `param`, holds half of a surrogate pair.

    Python and JSON can write such a half, but UTF-8 cannot, and so no model can read it.
    """
    if not is_encodable(text):
        raise half_a_pair(param, place)


def half_a_pair(param: str, place: str = "") -> InvalidRequestError:
    """The error for half of a surrogate pair in a text."""
    return InvalidRequestError(
        "{param}{place} holds half of a surrogate pair, which is no character",
        param,
        "send the whole character, or leave it out",
        place=place,
    )


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can hold the text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unknown_token(param: str, token: int, n_vocab: int) -> InvalidRequestError:
    """The error for a token id in `param` that a vocabulary of `n_vocab` tokens does not have."""
    return InvalidRequestError(
        "{param}: token id {token} is not in the vocabulary (0 to {last})",
        param,
        token=token,
        last=n_vocab - 1,
    )


class UnsupportedError(CodeLlamaError):
    """A request that this model, or this build of llama.cpp, cannot serve."""


class QueueFullError(CodeLlamaError):
    """The waiting queue is full."""


class EngineDeadError(CodeLlamaError):
    """The engine has been closed or is beyond repair; no request will be served any more."""


class DecodeError(CodeLlamaError):
    """llama.cpp failed to decode a batch, or what it gave is of no use.

    `spoiled` says that the KV cache holds what may spoil every other answer too.
    """

    def __init__(self, sentence: str, *, spoiled: bool = False) -> None:
        super().__init__(sentence)
        self.spoiled = spoiled


def as_decode_error(why: BaseException) -> BaseException:
    """`why` if it is an error of this package, else a `DecodeError` that tells of it."""
    return why if isinstance(why, CodeLlamaError) else DecodeError(f"the step failed: {why!r}")


class ModelLoadError(CodeLlamaError):
    """A GGUF file that cannot be read, is not what it says, or does not fit this machine."""


class CheckpointError(CodeLlamaError):
    """A Hugging Face checkpoint that is incomplete, inconsistent or of an unknown kind."""


class ConversionError(CodeLlamaError):
    """A conversion or quantization that cannot be carried out."""
