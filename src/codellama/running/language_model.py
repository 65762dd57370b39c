"""What the server, a session, the command line and the foreign interfaces need of a loaded model.

`LLM` is one; a test's stand-in is another. Types only: what each method does is said at `LLM`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from codellama.devices.plan import LoadPlan
    from codellama.engine import EngineStatus
    from codellama.native.hooks import TokenHooks
    from codellama.params import (
        ContextPolicy,
        Message,
        ModelConfig,
        Pooling,
        Prompt,
        SamplingOptions,
        SamplingParams,
        Tools,
    )
    from codellama.running.adapters import Adapter, LoraScales
    from codellama.running.completion import Completion, Deliver
    from codellama.running.core import SlotActions
    from codellama.running.embedding import Embeddings


class TextTokenizer(Protocol):
    """Text to ids and back; see `codellama.native.model.Tokenizer`."""

    @property
    def n_vocab(self) -> int:
        """Number of ids."""

    @property
    def bos(self) -> int:
        """Begin of sequence."""

    @property
    def eos(self) -> int:
        """End of sequence."""

    @property
    def add_space_prefix(self) -> bool:
        """Whether a text gets a space put before it."""

    @property
    def eog_tokens(self) -> frozenset[int]:
        """All ids that end an answer."""

    def encode(
        self, text: str, *, add_bos: bool = False, parse_special: bool = False
    ) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...

    def decode(self, tokens: Iterable[int]) -> str: ...

    def token_text(self, token: int) -> str: ...


class DialogRenderer(Protocol):
    """Writes dialogs as text."""

    def render(self, messages: Iterable[Message], tools: Tools | None = None) -> str: ...


class LanguageModel(Protocol):
    """A loaded model that answers requests."""

    name: str
    """What answers call it: as it was published, else its file's name without the ending, unless somebody
    sets another."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def slots(self) -> SlotActions:
        """What its slots do and hold."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The header of its GGUF."""

    @property
    def problem(self) -> str | None:
        """Why it takes no requests now; None if it does."""

    @property
    def n_ctx(self) -> int:
        """The context of a request, in tokens."""

    @property
    def config(self) -> ModelConfig:
        """What it was loaded with."""

    @property
    def plan(self) -> LoadPlan:
        """How it was loaded."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """Its vocabulary."""

    @property
    def chat_format(self) -> DialogRenderer | None:
        """How dialogs are written; None for base and Python models."""

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The loaded LoRA adapters."""

    def chat_prompt(
        self,
        messages: str | Iterable[Message],
        *,
        context_policy: ContextPolicy | None = None,
        max_tokens: int | None = None,
        tools: Tools | None = None,
    ) -> Prompt: ...

    def complete_prompt(self, prompt: str | Sequence[int]) -> Prompt: ...

    def infill_prompt(self, prefix: str, suffix: str) -> Prompt: ...

    def chat(
        self,
        messages: str | Iterable[Message],
        *,
        n: int = 1,
        context_policy: ContextPolicy | None = None,
        tools: Tools | None = None,
        **params: Unpack[SamplingOptions],
    ) -> Completion: ...

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        n: int = 1,
        best_of: int | None = None,
        echo: bool = False,
        **params: Unpack[SamplingOptions],
    ) -> Completion: ...

    def infill(
        self, prefix: str, suffix: str, *, n: int = 1, **params: Unpack[SamplingOptions]
    ) -> Completion: ...

    def generate(
        self,
        prompt: Prompt,
        *,
        params: SamplingParams,
        n: int = 1,
        echo: bool = False,
        best_of: int | None = None,
        deliver: Deliver | None = None,
        reports: bool = False,
        hooks: TokenHooks | None = None,
    ) -> Completion: ...

    def embeddings(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling | None = None,
        normalize: bool | int = True,
    ) -> Future[Embeddings]: ...

    def set_adapters(self, lora: LoraScales) -> None: ...

    def warm_up(self) -> None: ...

    def status(self) -> EngineStatus: ...

    def save_state(
        self, tokens: Sequence[int], path: str | Path, *, lora: LoraScales | None = None
    ) -> bool: ...

    def load_state(self, path: str | Path) -> None: ...

    def close(self) -> None: ...
