"""A storm of faults over a real model: nothing is lost, whatever fails when.

Each round asks some requests at once and lets one thing go wrong: a step of llama.cpp, room in the KV
cache, a sink, a drafter, a client, or the disk at a session's save. Every request must end in exactly one
final delta, and what ends by itself must have the answer that it has alone. Which faults come in which order
depends on the seed only.
"""

from __future__ import annotations

import errno
import random
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from codellama import LLM, DecodeError, FinishReason, SamplingParams
from codellama.engine import NgramDrafter
from codellama.engine.drafter import Wish
from codellama.engine.request import Delta
from codellama.session import Session
from tests.inside import core

PROMPTS = tuple(
    [1, *range(70, 70 + 9 * i), *range(90, 90 + 7 * j)] for i in range(1, 5) for j in range(1, 4)
)
LENGTH = 16
KINDS = ("failing step", "full KV", "throwing sink", "killed draft", "client gone", "disk full")
PATIENCE_S = 120.0


class Reader:
    """A client: it keeps what it is told, and stops listening, or raises, after some deltas."""

    def __init__(self, prompt: int, raises_at: int | None = None) -> None:
        self.prompt = prompt
        self.deltas: list[Delta] = []
        self._ended = threading.Event()
        self._raises_at = raises_at

    def __call__(self, index: int, delta: Delta) -> None:
        self.deltas.append(delta)
        if delta.finish_reason is not None:
            self._ended.set()
        if self._raises_at is not None and len(self.deltas) >= self._raises_at:
            raise OSError(errno.EPIPE, "nobody listens")

    def wait(self) -> None:
        """Until it has been told how it ended."""
        assert self._ended.wait(PATIENCE_S), "a request that never ends"

    @property
    def tokens(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.tokens]


class Mortal(NgramDrafter):
    """Dies when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.dies = False

    def draft(self, wishes: Sequence[Wish]) -> list[list[int]]:
        if self.dies:
            self.dies = False
            raise RuntimeError("killed")
        return super().draft(wishes)


class Storm:
    """Faults over `llm`, which has at least three slots and a cache in host memory. `happened` counts those
    that struck, by kind."""

    def __init__(self, llm: LLM, folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.llm = llm
        self.happened: Counter[str] = Counter()
        self.reasons: Counter[FinishReason] = Counter()
        self._rng = random.Random(seed)
        self._folder = folder
        self._answers = [self._alone(i) for i in range(len(PROMPTS))]
        self._status = 0  # that llama_decode is to return instead of decoding
        self._countdown = 0
        self._went_well = (
            False  # since the latest failure: an engine gives up after several in a row
        )
        decode = llama_cpp.llama_decode

        def decode_or_fail(handle: Any, batch: Any) -> int:
            self._countdown -= 1
            if self._status and self._countdown <= 0 and self._went_well:
                self._went_well = False
                status, self._status = self._status, 0
                self.happened["full KV" if status == 1 else "failing step"] += 1
                return status
            self._went_well = True
            return int(decode(handle, batch))

        monkeypatch.setattr(llama_cpp, "llama_decode", decode_or_fail)

    def _alone(self, i: int) -> list[int]:
        reader = Reader(i)
        self._ask(reader)
        reader.wait()
        return reader.tokens

    def _ask(self, reader: Reader, max_tokens: int = LENGTH) -> Any:
        prompt = self.llm.complete_prompt(PROMPTS[reader.prompt])
        params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        return self.llm.generate(prompt, params=params, deliver=reader)

    def run(self, n: int) -> None:
        """Until `n` faults have struck; checks now and then that all is well."""
        rounds = 0
        while self.happened.total() < n:
            self._round(self._rng.choice(KINDS))
            rounds += 1
            if rounds % 25 == 0:
                self.check()
        self.check()

    def check(self) -> None:
        """Nothing runs, nothing is kept of what has ended, and an answer is what it always was."""
        self._status = 0
        core(self.llm).engine.check_integrity()
        status = self.llm.status()
        assert (status.n_running, status.n_waiting, status.dead) == (0, 0, False)
        i = self._rng.randrange(len(PROMPTS))
        assert self._alone(i) == self._answers[i]

    def _round(self, kind: str) -> None:
        rng = self._rng
        readers = [Reader(rng.randrange(len(PROMPTS))) for _ in range(rng.randint(1, 5))]
        if kind == "throwing sink":
            readers.append(Reader(rng.randrange(len(PROMPTS)), rng.randint(1, 6)))
        if kind in ("failing step", "full KV"):
            self._countdown = rng.randint(1, 12)
            self._status = 1 if kind == "full KV" else rng.choice([2, -1, -3])
        if kind == "killed draft":
            self._kill_the_drafter()
        running = [self._ask(reader) for reader in readers]
        if kind == "client gone":
            gone = rng.randrange(len(running))
            running[gone].cancel()
            self.happened[kind] += 1
        if kind == "disk full":
            self._save_on_a_full_disk()
        for reader in readers:
            reader.wait()
            self._check_reader(reader, kind)
        self._status = 0

    def _check_reader(self, reader: Reader, kind: str) -> None:
        *before, final = reader.deltas
        assert final.finish_reason is not None
        assert all(delta.finish_reason is None for delta in before), "one final delta, the last"
        self.reasons[final.finish_reason] += 1
        want = self._answers[reader.prompt]
        assert reader.tokens == want[: len(reader.tokens)]
        if final.finish_reason is FinishReason.LENGTH:
            assert reader.tokens == want
        elif final.finish_reason is FinishReason.ERROR:
            assert kind in ("failing step", "full KV")
            assert isinstance(final.error, DecodeError)
        else:
            assert final.finish_reason is FinishReason.CANCELLED
            assert kind in ("client gone", "throwing sink")
            self.happened["throwing sink"] += kind == "throwing sink"

    def _kill_the_drafter(self) -> None:
        """The drafter that there is dies at its next draft; there is a new one if none is left."""
        speculator = core(self.llm).engine._speculator

        def kill() -> None:
            if not speculator._drafters:
                self.happened["killed draft"] += 1
                speculator._drafters.append(Mortal())
            mortal = speculator._drafters[0]
            if not isinstance(mortal, Mortal):
                speculator._drafters[0] = mortal = Mortal()
            mortal.dies = True

        core(self.llm).engine._call(kill)

    def _save_on_a_full_disk(self) -> None:
        """What a session had saved before is still there, and so is the session."""
        path = self._folder / "talk.json"
        talk = Session(self.llm)
        talk.ask("abc", temperature=0, max_tokens=4).text()
        talk.save(path, kv=True)
        state = self._folder / "talk.json.kv"
        saved = path.read_bytes(), state.read_bytes()
        talk.ask("def", temperature=0, max_tokens=4).text()
        full = self._folder / self._rng.choice(["talk.json.part", "talk.json.kv.part"])
        full.symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left") as caught:
            talk.save(path, kv=True)
        assert caught.value.errno == errno.ENOSPC
        assert state.read_bytes() == saved[1]
        if full.name == "talk.json.part":
            assert path.read_bytes() == saved[0]
        assert sorted(p.name for p in self._folder.iterdir()) == ["talk.json", "talk.json.kv"]
        talk.save(path, kv=True)
        again = Session.load(path, self.llm)
        assert (again.notice, again.messages) == (None, talk.messages)
        self.happened["disk full"] += 1
