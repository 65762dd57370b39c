"""The model behind the routes: loading, ready, failed or stopping, and the requests it is answering.

The model is loaded and warmed up on a thread of its own while the server already answers `/health`, and
serves then. All methods but the loader run on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from codellama.errors import EngineDeadError

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel

log = logging.getLogger(__name__)

LOADING = "Loading model"  # llama-server's wording; clients wait for it to go away


class Running(Protocol):
    """A request that is being answered."""

    def cancel(self) -> object:
        """End it soon; harmless if it has ended."""


class Loading:
    """How far the weights are, told by a `load` that can; `share` is None while nobody tells."""

    def __init__(self) -> None:
        self.share: float | None = None

    def __call__(self, done: int, total: int) -> None:
        """Note that `done` of `total` bytes are there; from any thread."""
        self.share = done / total if total else 1.0


class Serving:
    """One model and what is running on it; `name` is what answers are to call it (None: its own name).

    `on_failure` hears of a model that cannot be loaded. `loading` is what `load` tells its progress.
    `on_warm` is called, on the loading thread, when a model is warmed up and serves.
    """

    def __init__(
        self,
        load: Callable[[], LanguageModel],
        on_failure: Callable[[BaseException], None] | None = None,
        name: str | None = None,
        loading: Loading | None = None,
        on_warm: Callable[[], object] | None = None,
    ) -> None:
        self.created = int(time.time())
        self.loading = loading or Loading()
        self.running: set[Running] = set()
        self._load = load
        self._on_failure = on_failure
        self._name = name
        self._on_warm = on_warm
        self._llm: LanguageModel | None = None
        self._unavailable: str | None = LOADING
        self._ready_hook: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to load. The thread is a daemon: when the process ends, it ends in the middle of it."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, args=(loop,), name="load-model", daemon=True).start()

    def llm(self) -> LanguageModel:
        """The model, ready for requests; EngineDeadError (a 503) while or when there is none."""
        if self._unavailable is not None or self._llm is None:
            raise EngineDeadError(self._unavailable or LOADING)
        self.check_engine()
        return self._llm

    def check_engine(self) -> None:
        """Raises EngineDeadError if there is a model and its engine takes no requests."""
        if self._llm is not None and self._llm.problem is not None:
            raise EngineDeadError(self._llm.problem)

    def when_ready(self, call: Callable[[], None]) -> None:
        """Call `call` on the event loop when the model has been loaded."""
        self._ready_hook = call

    def unload(self) -> LanguageModel:
        """Take no more requests until `reload`; gives the model, which the caller closes."""
        llm, self._llm = self._llm, None
        assert llm is not None, "only a model that is there is unloaded"
        return llm

    async def reload(self) -> None:
        """Load the model again. Raises EngineDeadError if that fails, or the server is stopping."""
        try:
            llm = await asyncio.to_thread(self._warm)
        except Exception as error:
            raise EngineDeadError(f"the model could not be loaded again: {error}") from error
        if self._unavailable is not None:
            llm.close()
            raise EngineDeadError(self._unavailable)
        self._take(llm)

    def cancel_all(self) -> None:
        """Take no more requests and cut the running ones short."""
        self._unavailable = "the server is stopping"
        for request in list(self.running):
            request.cancel()

    def close(self) -> None:
        """Take no more requests and free the model."""
        self.cancel_all()
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.close()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            llm = self._warm()
        except BaseException as error:  # whatever it is, the server must hear of it
            _tell(loop, self._failed, error)
        else:
            if not _tell(loop, self._ready, llm):
                llm.close()
            elif self._on_warm is not None:
                self._on_warm()

    def _warm(self) -> LanguageModel:
        """A model that nobody uses yet: warming it up holds up all threads for a tenth of a second."""
        llm = self._load()
        llm.warm_up()
        return llm

    def _ready(self, llm: LanguageModel) -> None:
        self._take(llm)
        if self._unavailable == LOADING:
            self._unavailable = None
            self._ready_hook()
        else:  # the server was asked to stop in the meantime
            self.close()

    def _take(self, llm: LanguageModel) -> None:
        self._llm, self.loading.share = llm, None
        if self._name is not None:
            llm.name = self._name
        if log.isEnabledFor(logging.INFO):
            log.info("%s", ready_line(llm))

    def _failed(self, error: BaseException) -> None:
        self._unavailable, self.loading.share = f"the model could not be loaded: {error}", None
        if self._on_failure is not None:
            self._on_failure(error)


def ready_line(llm: LanguageModel) -> str:
    """What serves now: the model, the context of a request, how many at a time, and the plan in one line."""
    slots = llm.config.n_seq_max
    return f"ready: {llm.name}, context {llm.n_ctx} tokens, {slots} slots, layers: {llm.plan.where}"


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: object) -> bool:
    """Run `call` on the loop; False if the loop is gone."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return False
    return True
