"""What answers an `LLM`'s requests: weights, contexts, adapters and engine, carried out from one plan.

An `LLM` asks a `ModelCore`. `LocalCore` is one in this process; `running.isolated` has one whose engine runs
in a process of its own. Prompts are token ids here, and whatever is wrong with a request is raised at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from codellama.devices.contexts import encoder_batch
from codellama.devices.plan import LoadPlan
from codellama.engine import EngineStatus
from codellama.engine.status import SlotStatus
from codellama.files.gguf_header import GGUFHeader
from codellama.native.hooks import TokenHooks
from codellama.native.model import Tokenizer
from codellama.params import ModelConfig, Pooling, Progress, Prompt, SamplingParams
from codellama.prompts.prompts import prompt_text
from codellama.running.adapter_files import AdapterFile, plan_adapters
from codellama.running.adapters import Adapter, LoraScales
from codellama.running.completion import Deliver, begin
from codellama.running.embedding import Embedder, Embeddings
from codellama.running.form import Forms
from codellama.running.intake import RequestMaker, close
from codellama.running.load_plans import first_that_fits, plans
from codellama.running.opening import (
    open_adapters,
    open_context,
    open_drafters,
    open_encoder,
    open_model,
    shift_problem,
    start_engine,
)
from codellama.running.slots import Slots


@dataclass(frozen=True)
class Ask:
    """A request for `n` answers: choice i of a seed is drawn with seed + i. With `echo` an answer begins with
    its prompt, with `reports` each delta has usage and timings."""

    prompt: Prompt
    params: SamplingParams
    n: int = 1
    echo: bool = False
    reports: bool = False


@dataclass(frozen=True)
class Submitted:
    """What was asked and is being answered: the engine's numbers of the answers, and how to end them."""

    tasks: tuple[int, ...]
    cancel: Callable[[], None]


class SlotActions(Protocol):
    """What can be done with the slots of an engine; see `codellama.running.slots.Slots`."""

    def status(self) -> list[SlotStatus]: ...
    def save_slot(self, index: int, path: Path) -> int: ...
    def restore_slot(self, index: int, path: Path) -> int: ...
    def erase_slot(self, index: int) -> int: ...


class ModelCore(Protocol):
    """A loaded model and its engine, as an `LLM` sees it; what each call does is said at `LLM`."""

    @property
    def plan(self) -> LoadPlan:
        """How it was loaded."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its vocabulary."""

    @property
    def slots(self) -> SlotActions:
        """What its slots do and hold."""

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The loaded LoRA adapters."""

    @property
    def problem(self) -> str | None:
        """Why it takes no requests now; None if it does."""

    def submit(self, ask: Ask, deliver: Deliver, hooks: TokenHooks | None = None) -> Submitted: ...
    def check(self, ask: Ask) -> None: ...
    def embed(
        self, inputs: Sequence[Sequence[int]], pooling: Pooling, norm: int
    ) -> Future[Embeddings]: ...
    def set_adapters(self, lora: LoraScales) -> None: ...
    def warm_up(self) -> None: ...
    def status(self) -> EngineStatus: ...
    def save_state(self, tokens: Sequence[int], lora: LoraScales | None, path: Path) -> bool: ...
    def load_state(self, path: Path) -> None: ...
    def drain(self, timeout: float | None) -> bool: ...
    def close(self) -> None: ...


def open_here(
    header: GGUFHeader, config: ModelConfig, progress: Progress | None = None
) -> LocalCore:
    """Load the model of `header` in this process, by the first plan that fits.

    Raises what planning, the adapters and llama.cpp raise.
    """
    adapters = plan_adapters(config, header)
    carry_out = partial(LocalCore, header, config, adapters, progress)
    return first_that_fits(plans(header, config, adapters), carry_out)


class LocalCore:
    """A model in this process. `close` ends its requests and frees it; closing twice is harmless."""

    def __init__(
        self,
        header: GGUFHeader,
        config: ModelConfig,
        lora: list[AdapterFile],
        progress: Progress | None,
        plan: LoadPlan,
    ) -> None:
        """Carry out `plan`. Raises ModelLoadError, and what `progress` raises; nothing is left open then."""
        self.plan = plan
        with ExitStack() as undo:
            self._open(header, config, lora, progress, undo)
            self._resources = undo.pop_all()

    def _open(
        self,
        header: GGUFHeader,
        config: ModelConfig,
        lora: list[AdapterFile],
        progress: Progress | None,
        undo: ExitStack,
    ) -> None:
        plan = self.plan
        self.model = open_model(plan.model, undo, progress)
        self.tokenizer: Tokenizer = self.model.tokenizer
        context = open_context(self.model, plan.model.context, undo)
        loras, self._adapters, owner = open_adapters(lora, self.model, context, header, plan)
        self._embedder = Embedder(
            partial(open_encoder, self.model, plan.encoder, loras), encoder_batch(config)
        )
        undo.callback(self._embedder.close)
        self.requests = RequestMaker(
            plan.n_ctx,
            self.tokenizer,
            self._adapters,
            Forms(self.tokenizer),
            shift_problem(plan, context, config),
            plan.n_ctx_train,
        )
        drafters = open_drafters(plan, config, context, self.tokenizer.eos, undo)
        self.engine = start_engine(plan, config, context, drafters)
        self.slots = Slots(self.engine, owner, plan.cells)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The loaded LoRA adapters and their default scales."""
        return self._adapters.adapters

    @property
    def problem(self) -> str | None:
        """Why it takes no requests; None if it does."""
        return "the engine has stopped: load the model again" if self.engine.status.dead else None

    def submit(self, ask: Ask, deliver: Deliver, hooks: TokenHooks | None = None) -> Submitted:
        """Queue a request; raises what `LLM.generate` says."""
        prompt = ask.prompt
        with self.model.using():
            requests = self.requests.make(
                prompt, ask.params, ask.n, deliver, ask.echo, ask.reports, hooks
            )
        try:
            if ask.echo:
                begin(deliver, ask.n, prompt_text(prompt, self.tokenizer))
            self.engine.submit(requests)
        except BaseException:
            close(requests)
            raise

        def cancel() -> None:
            for request in requests:
                self.engine.cancel(request)

        return Submitted(tuple(request.id for request in requests), cancel)

    def check(self, ask: Ask) -> None:
        """Raise what `submit` would raise."""
        self.requests.check(ask.prompt, ask.params)

    def embed(
        self, inputs: Sequence[Sequence[int]], pooling: Pooling, norm: int
    ) -> Future[Embeddings]:
        """Vectors of token lists, computed between the steps of running answers."""
        work = self._embedder.work(inputs, pooling, norm, self._adapters.scales(None))
        return self.engine.submit_work(work)

    def set_adapters(self, lora: LoraScales) -> None:
        """Change the default scales."""
        self._adapters.set_defaults(lora)

    def warm_up(self) -> None:
        """Do now what the first answer under a schema would wait for."""
        self.requests.forms.warm_up()

    def status(self) -> EngineStatus:
        """A snapshot of the engine after its latest step."""
        return self.engine.status

    def save_state(self, tokens: Sequence[int], lora: LoraScales | None, path: Path) -> bool:
        """Write the KV state that shares most with `tokens`; False if there is none."""
        return self.slots.save(tokens, self._adapters.scales(lora), path) > 0

    def load_state(self, path: Path) -> None:
        """Take in what `save_state` wrote."""
        self.engine.add_state(self.slots.read(path))

    def drain(self, timeout: float | None) -> bool:
        """Take no more requests and wait for the running ones; False after `timeout` seconds."""
        return self.engine.drain(timeout)

    def close(self) -> None:
        """End all requests and free the model."""
        self.engine.close()
        self._resources.close()
