"""A `ModelCore` whose engine runs in a process of its own, which is started again when it dies.

llama.cpp ends its process where a worker on another machine goes away, and so does the system where memory
runs out. Here that ends no more than the answers that had begun: each gets one final error. The model is
planned and loaded again on the devices that answer, and requests that had not got a token are asked again.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from codellama.devices.plan import LoadPlan
from codellama.engine import EngineStatus
from codellama.engine.request import Delta, FinishReason
from codellama.engine.status import SlotStatus
from codellama.errors import CodeLlamaError, EngineDeadError, ModelLoadError, UnsupportedError
from codellama.files.gguf_header import GGUFHeader
from codellama.native.hooks import TokenHooks
from codellama.native.model import Tokenizer
from codellama.native.rpc_link import answering
from codellama.native.settings import WeightSettings
from codellama.params import ModelConfig, Pooling, Progress
from codellama.running.adapters import Adapter, LoraScales
from codellama.running.asked import Asked, Called, settle
from codellama.running.completion import Deliver
from codellama.running.core import Ask, Submitted
from codellama.running.embedding import Embeddings
from codellama.running.engine_process import EngineProcess, gone
from codellama.running.opening import open_model
from codellama.running.records import Opened, Record, Start

log = logging.getLogger("codellama.engine")

PAUSES_S = (0.0, 1.0, 2.0, 5.0)
"""Seconds before each attempt to start again for which requests wait."""
LATER_S = 30.0  # before each further one
_STOPPING_S = 30.0
_LOGGERS = ("codellama", "codellama.llama_cpp")


class IsolatedCore:
    """A model in a process of its own. `close` ends its requests and the process."""

    def __init__(
        self, header: GGUFHeader, config: ModelConfig, progress: Progress | None = None
    ) -> None:
        """Start the process and wait until it has loaded the model; only the vocabulary is loaded here.

        Raises what loading raises there, and what `progress` raises.
        """
        self._path, self._config = header.path, replace(config, isolate=False)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._keys = itertools.count()
        self._asked: dict[int, Asked] = {}
        self._called: dict[int, Called] = {}
        self._problem: str | None = None
        self._draining = False
        with ExitStack() as undo:
            self._process, opened = self._started(self._config, progress)
            undo.callback(self._process.kill)
            self.plan: LoadPlan = opened.plan
            self.adapters: tuple[Adapter, ...] = opened.adapters
            weights = WeightSettings(vocab_only=True, overrides=opened.plan.model.weights.overrides)
            self._vocabulary = ExitStack()
            lent = open_model(replace(opened.plan.model, weights=weights), self._vocabulary)
            undo.pop_all()
        self.tokenizer: Tokenizer = lent.tokenizer
        self.slots = RemoteSlots(self._call)
        self._thread = threading.Thread(
            target=self._supervise, name="engine-supervisor", daemon=True
        )
        self._thread.start()

    # -- asking -------------------------------------------------------------------------------

    @property
    def problem(self) -> str | None:
        """Why it takes no requests now; None if it does."""
        return self._problem

    @property
    def pid(self) -> int:
        """The number of the process that there is now."""
        return self._process.pid

    def submit(self, ask: Ask, deliver: Deliver, hooks: TokenHooks | None = None) -> Submitted:
        """Queue a request; raises what `LLM.generate` says."""
        if hooks is not None:
            raise UnsupportedError(
                "the functions in logits_processor and stopping_criteria cannot be called from the engine's "
                "own process",
                "load the model with {isolate}=False",
            )
        asked = Asked(ask, deliver)
        with self._changed:
            self._let_in()
            key = next(self._keys)
            self._asked[key] = asked
            process = self._process
        process.send(("ask", key, ask))
        return Submitted(asked.accepted.result(), partial(self._cancel, key))

    def check(self, ask: Ask) -> None:
        """Raise what `submit` would raise."""
        self._call("check", ask)

    def embed(
        self, inputs: Sequence[Sequence[int]], pooling: Pooling, norm: int
    ) -> Future[Embeddings]:
        """Vectors of token lists."""
        tokens = [list(one) for one in inputs]
        key, future = self._ask_for("embed", tokens, pooling, norm, again=True)

        def cancelled(ended: Future[Embeddings]) -> None:
            if ended.cancelled():
                with self._changed:
                    self._called.pop(key, None)
                    self._changed.notify_all()
                self._process.send(("cancel", key))

        future.add_done_callback(cancelled)
        return future

    def set_adapters(self, lora: LoraScales) -> None:
        """Change the default scales."""
        self.adapters = self._call("set_adapters", dict(lora))

    def warm_up(self) -> None:
        """Do now what the first answer under a schema would wait for."""
        self._call("warm_up")

    def status(self) -> EngineStatus:
        """A snapshot of the engine after its latest step."""
        status: EngineStatus = self._call("status")
        return status

    def save_state(self, tokens: Sequence[int], lora: LoraScales | None, path: Path) -> bool:
        """Write the KV state that shares most with `tokens`; False if there is none."""
        return bool(self._call("save_state", list(tokens), lora, path.absolute()))

    def load_state(self, path: Path) -> None:
        """Take in what `save_state` wrote."""
        self._call("load_state", path.absolute())

    def drain(self, timeout: float | None) -> bool:
        """Take no more requests and wait for the running ones; False after `timeout` seconds."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: not (self._asked or self._called), timeout)

    def close(self) -> None:
        """End all requests, the process, and the thread that looks after it."""
        with self._changed:
            self._problem = "the engine is shutting down"
            self._stopping.set()
            process = self._process
        process.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join(_STOPPING_S)
            if self._thread.is_alive():
                process.kill()
                self._thread.join()
        self._vocabulary.close()

    def _let_in(self) -> None:
        """Raise EngineDeadError if nothing is taken in now; the caller holds `_changed`."""
        if self._problem is not None:
            raise EngineDeadError(self._problem)
        if self._draining:
            raise EngineDeadError("the engine is shutting down")

    def _ask_for(self, *what: Any, again: bool = False) -> tuple[int, Future[Any]]:
        with self._changed:
            self._let_in()
            key = next(self._keys)
            record = (what[0], key, *what[1:])
            called = self._called[key] = Called(record, again=again)
            process = self._process
        process.send(record)
        return key, called.future

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the process and wait for what it gives, or raise what it raises."""
        _, future = self._ask_for("call", name, arguments)
        return future.result()

    def _cancel(self, key: int) -> None:
        with self._changed:
            asked = self._asked.get(key)
            if asked is None:
                return
            asked.cancelled = True
            waits, process = self._problem is not None, self._process
        if not waits:
            process.send(("cancel", key))
        elif self._forget(key):
            asked.end(FinishReason.CANCELLED)

    # -- the supervisor's thread ----------------------------------------------------------------

    def _started(
        self, config: ModelConfig, progress: Progress | None
    ) -> tuple[EngineProcess, Opened]:
        """A process that has loaded the model. Raises what loading raises."""
        levels = {name: logging.getLogger(name).getEffectiveLevel() for name in _LOGGERS}
        process = EngineProcess(Start(self._path, config, levels, sys.getswitchinterval()))
        with self._changed:
            self._process = process
            if self._stopping.is_set():  # `close` knew only of the process before
                process.stop()
        try:
            for record in process.records():
                match record:
                    case ("progress", done, total):
                        if progress is not None:
                            progress(done, total)
                    case ("ready", opened):
                        return process, opened
                    case ("failed", error):
                        raise error
                    case _:
                        self._take(record)
            raise ModelLoadError(f"the engine's process ended while loading: {process.why()}")
        except BaseException:
            process.kill()
            process.close()
            raise

    def _supervise(self) -> None:
        """Hear what the process says; when it has ended, start another one."""
        process: EngineProcess | None = self._process
        while process is not None:
            for record in process.records():
                self._take(record)
            why = process.why()
            process.close()
            process = self._started_again(why)
        self._end_all(self._problem or "the engine has been closed")

    def _take(self, record: Record) -> None:
        match record:
            case ("deltas", deltas):
                for key, index, delta in deltas:
                    asked = self._asked.get(key)
                    if asked is not None:
                        self._deliver(key, asked, index, Delta(*delta))
            case ("result", key, value):
                self._settle(key, value, None)
            case ("error", key, error):
                self._settle(key, None, error)
            case ("log", name, level, text):
                logging.getLogger(name).log(level, "%s", text)

    def _deliver(self, key: int, asked: Asked, index: int, delta: Delta) -> None:
        try:
            asked.take(index, delta)
        except Exception:
            log.exception("the sink of a request failed; it is cancelled")
            self._cancel(key)
        if asked.is_over:
            self._forget(key)

    def _forget(self, key: int) -> bool:
        """This request has ended; False if that was known."""
        with self._changed:
            known = self._asked.pop(key, None) is not None
            self._changed.notify_all()
        return known

    def _settle(self, key: int, value: Any, error: BaseException | None) -> None:
        """A request was taken in, or something else has its result."""
        asked = self._asked.get(key)
        if asked is not None and asked.accepted.done():
            if error is not None and self._forget(key):  # it was refused the second time
                asked.end(FinishReason.ERROR, error)
            return
        if asked is not None:
            settle(asked.accepted, value, error)
            if asked.is_over or error is not None:
                self._forget(key)
            return
        with self._changed:
            called = self._called.pop(key, None)
            self._changed.notify_all()
        if called is not None:
            settle(called.future, value, error)

    def _started_again(self, why: str) -> EngineProcess | None:
        """Another process in place of one that has ended; None if none is wanted any more."""
        with self._changed:
            if self._stopping.is_set():
                return None
            self._problem = f"the engine's process ended ({why}) and is being started again"
            lost = {key: one for key, one in self._asked.items() if not one.may_go_again}
        log.error("%s", self._problem)
        self._end(lost, gone(why))
        for number in itertools.count():
            if self._stopping.wait(PAUSES_S[number] if number < len(PAUSES_S) else LATER_S):
                return None
            try:
                process, opened = self._started(self._what_is_left(), None)
            except Exception as error:
                self._problem = (
                    f"the engine's process ended ({why}) and cannot be started again: {error}"
                )
                log.error("%s", self._problem)
                if number + 1 == len(PAUSES_S):
                    self._end_all(self._problem)
            else:
                self._go_on(process, opened)
                return process
        return None

    def _what_is_left(self) -> ModelConfig:
        """The configuration for the workers that answer; layers are planned anew if some do not."""
        left = answering(self._config.rpc)
        if left == self._config.rpc:
            return self._config
        lost = ", ".join(sorted(set(self._config.rpc) - set(left)))
        log.error("no worker answers at %s: going on without", lost)
        layers = self._config.n_gpu_layers
        return replace(
            self._config,
            rpc=left,
            tensor_split=(),
            main_gpu=0,
            n_gpu_layers=0 if layers == 0 else "auto",
        )

    def _go_on(self, process: EngineProcess, opened: Opened) -> None:
        """Ask the new process what had not been answered."""
        scales = {adapter.id: adapter.scale for adapter in self.adapters}
        if scales:
            process.send(("call", next(self._keys), "set_adapters", (scales,)))
        with self._changed:
            self.plan, self._problem = opened.plan, None
            asked, called = dict(self._asked), dict(self._called)
            for key, one in asked.items():
                one.tries += 1
                process.send(("ask", key, one.ask))
            for other in called.values():
                process.send(other.record)
        log.warning("the engine's process is there again: layers: %s", opened.plan.where)

    def _end(self, lost: dict[int, Asked], error: CodeLlamaError) -> None:
        """End these requests, and all calls that must not be made twice, with an error."""
        for key, asked in lost.items():
            if self._forget(key):
                asked.fail(error)
        with self._changed:
            once = {key: one for key, one in self._called.items() if not one.again}
            for key in once:
                del self._called[key]
            self._changed.notify_all()
        for one in once.values():
            settle(one.future, None, error)

    def _end_all(self, why: str) -> None:
        error = EngineDeadError(why)
        self._end(dict(self._asked), error)
        with self._changed:
            left, self._called = self._called, {}
            self._changed.notify_all()
        for one in left.values():
            settle(one.future, None, error)


class RemoteSlots:
    """The slots of an engine in another process; see `codellama.running.slots.Slots`."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def status(self) -> list[SlotStatus]:
        """What each slot is doing. Raises EngineDeadError."""
        found: list[SlotStatus] = self._call("slot_status")
        return found

    def save_slot(self, index: int, path: Path) -> int:
        """Write what slot `index` holds; how many tokens that are."""
        return int(self._call("save_slot", index, path.absolute()))

    def restore_slot(self, index: int, path: Path) -> int:
        """Put a saved state into slot `index`; how many tokens it has."""
        return int(self._call("restore_slot", index, path.absolute()))

    def erase_slot(self, index: int) -> int:
        """Forget what slot `index` holds; how many tokens that were."""
        return int(self._call("erase_slot", index))
