"""The process in which an engine runs for an `LLM` of another one (see `records` and `isolated`).

It loads the model as any `LLM` does, then answers records from its standard input. When that ends, whoever
wanted it has ended or wants it no more: then so does it.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO

from codellama.engine.request import Delta
from codellama.errors import CodeLlamaError, DecodeError
from codellama.files.loadable import read_model
from codellama.native.heap import share_heap
from codellama.running.adapters import Adapter, LoraScales
from codellama.running.core import Ask, LocalCore, Submitted, open_here
from codellama.running.keep_alive import notice_lost_workers
from codellama.running.records import Opened, Record, Start, packed, read_record, write_record

_CALLERS = 16  # records that are answered at the same time
logger = logging.getLogger("codellama")


class Outbox:
    """What goes to the other process; from any thread. Deltas wait for `flush`, so that those of a step go
    together."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._deltas: list[tuple[int, int, tuple[Any, ...]]] = []

    def put(self, key: int, index: int, delta: Delta) -> None:
        """Add a delta of request `key`."""
        self._deltas.append((key, index, packed(delta)))

    def flush(self) -> None:
        """Send the deltas there are."""
        if self._deltas:
            with self._lock:
                deltas, self._deltas = self._deltas, []
                self._write(("deltas", deltas))

    def send(self, *record: Any) -> None:
        """Send a record."""
        with self._lock:
            self._write(record)

    def _write(self, record: Record) -> None:
        try:
            write_record(self._file, record)
        except (OSError, ValueError):
            os._exit(1)  # nobody listens


class LogSender(logging.Handler):
    """Sends what is logged."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._outbox = outbox

    def emit(self, record: logging.LogRecord) -> None:
        self._outbox.send("log", record.name, record.levelno, record.getMessage())


class Service:
    """Answers records with a loaded model."""

    def __init__(self, core: LocalCore, outbox: Outbox) -> None:
        self._core = core
        self._outbox = outbox
        self._open: dict[int, int] = {}  # answers of a request that have not ended
        self._running: dict[int, Submitted] = {}
        self._embedding: dict[int, Future[Any]] = {}
        self._calls: dict[str, Callable[..., Any]] = {
            "check": core.check,
            "set_adapters": self._set_adapters,
            "warm_up": core.warm_up,
            "status": core.status,
            "save_state": core.save_state,
            "load_state": core.load_state,
            "slot_status": core.slots.status,
            "save_slot": core.slots.save_slot,
            "restore_slot": core.slots.restore_slot,
            "erase_slot": core.slots.erase_slot,
        }
        core.engine.after_step = outbox.flush

    def answer(self, kind: str, key: int, *rest: Any) -> None:
        """Do what a record asks for."""
        try:
            if kind == "cancel":
                self._cancel(key)
            elif kind == "embed":
                self._embed(key, *rest)
            elif kind == "ask":
                self._outbox.send("result", key, self._ask(key, *rest))
            else:
                name, arguments = rest
                self._outbox.send("result", key, self._calls[name](*arguments))
        except BaseException as error:
            self._outbox.send("error", key, portable(error))

    def _ask(self, key: int, ask: Ask) -> tuple[int, ...]:
        self._open[key] = ask.n
        try:
            running = self._core.submit(ask, partial(self._deliver, key))
        except BaseException:
            self._open.pop(key, None)
            raise
        self._running[key] = running
        if key not in self._open:  # it has ended already
            self._running.pop(key, None)
        self._outbox.flush()  # what an answer begins with
        return running.tasks

    def _deliver(self, key: int, index: int, delta: Delta) -> None:
        self._outbox.put(key, index, delta)
        if delta.finish_reason is not None:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
                self._running.pop(key, None)

    def _embed(self, key: int, *rest: Any) -> None:
        future = self._core.embed(*rest)
        self._embedding[key] = future
        future.add_done_callback(partial(self._embedded, key))

    def _embedded(self, key: int, future: Future[Any]) -> None:
        self._embedding.pop(key, None)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._outbox.send("result", key, future.result())
        else:
            self._outbox.send("error", key, portable(error))

    def _cancel(self, key: int) -> None:
        running, future = self._running.get(key), self._embedding.get(key)
        if running is not None:
            running.cancel()
        if future is not None:
            future.cancel()

    def _set_adapters(self, lora: LoraScales) -> tuple[Adapter, ...]:
        self._core.set_adapters(lora)
        return self._core.adapters


def portable(error: BaseException) -> BaseException:
    """The error as another process can read it; a text about one that cannot be written."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return DecodeError(f"{error!r}")
    return error


def main() -> None:
    """Load what the first record says, and serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process
    outbox = Outbox(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # what C prints is no record
    share_heap()
    start: Start = read_record(sys.stdin.buffer)
    sys.setswitchinterval(start.switch_s)
    for name, level in start.levels.items():
        logging.getLogger(name).setLevel(level)
    logger.addHandler(LogSender(outbox))
    logger.propagate = False
    records: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
    loaded = threading.Event()
    threading.Thread(target=_listen, args=(records, loaded), name="records", daemon=True).start()
    try:
        core = open_here(read_model(start.path), start.config, partial(outbox.send, "progress"))
    except CodeLlamaError as error:
        outbox.send("failed", portable(error))
        os._exit(1)
    loaded.set()
    notice_lost_workers(start.config.rpc)
    service = Service(core, outbox)
    outbox.send("ready", Opened(core.plan, core.adapters))
    gc.collect()
    gc.freeze()  # what has been loaded stays
    callers = ThreadPoolExecutor(_CALLERS, "caller")
    for record in _until_none(records):
        callers.submit(service.answer, *record)
    core.close()
    outbox.flush()
    os._exit(0)  # callers that still wait are waited for by nobody


def _listen(records: queue.SimpleQueue[Record | None], loaded: threading.Event) -> None:
    """Take in records until there are no more; a load that nobody waits for ends at once."""
    while (record := read_record(sys.stdin.buffer)) is not None:
        records.put(record)
    if not loaded.is_set():
        os._exit(1)
    records.put(None)


def _until_none(records: queue.SimpleQueue[Record | None]) -> Iterator[Record]:
    while (record := records.get()) is not None:
        yield record
