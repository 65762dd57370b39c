"""Measures a file over a text, chunk by chunk, keeps what is done, and writes the result as JSON.

With a base, both models are in memory and decode the same chunks. With a base file they take turns: what the
base thinks is kept in it, 64 bytes a token (see `base_file`), and used for every file that is compared later.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from codellama.devices.machine import this_machine
from codellama.devices.plan import LoadPlan
from codellama.devices.planner import plan_load
from codellama.errors import ConversionError, InvalidRequestError
from codellama.files.gguf_header import GGUFHeader
from codellama.files.identity import weights_digest
from codellama.files.loadable import read_model
from codellama.params import ModelConfig, Progress
from codellama.quality.base_file import KEPT, MOST_TOKENS, RECORD
from codellama.quality.chunk_journal import ChunkJournal
from codellama.quality.scoring import (
    Score,
    Scorer,
    base_records,
    score_alone,
    score_beside,
    score_with,
)
from codellama.quality.speed import measure_speed
from codellama.quality.statistics import ALONE, COMPARED, Summary, by_position, summarize
from codellama.quality.vocabulary import open_vocabulary
from codellama.weights.imatrix import read_text, text_chunks
from codellama.weights.naming import check_folder

CHUNK_TOKENS = 512
FEWEST_TOKENS = 64
"""A chunk's bounds: by default llama-perplexity's, and never fewer."""

OWN_TEXT = "code.txt"
"""The name that results give to the text in this package."""

_PARTS = 32
_VERSION = 2


@dataclass(frozen=True)
class QualityJob:
    """What is measured: `model` over the first `n_chunks` chunks of a text, None for all.

    Without a `text` it is the code in this package. With `against` the model is compared with that base; with
    `base_file` the two are loaded one after the other. `threads` is None for one per core.
    """

    model: Path
    against: Path | None = None
    text: Path | None = None
    n_chunks: int | None = None
    chunk_tokens: int = CHUNK_TOKENS
    base_file: Path | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Measured:
    """The result of a job.

    `identity` is the same for the same weights, base, text and chunks. `positions` are pairs of a position in
    the chunk and the mean divergence from there on. `outside` is the mean probability of what a base file
    has only drawn from; None where both models were in memory.
    """

    model: str
    base: str | None
    text: str
    chunk_tokens: int
    n_chunks: int
    summary: Summary
    positions: list[tuple[int, float]]
    outside: float | None
    identity: str

    def to_json(self) -> dict[str, Any]:
        """As the dictionary that the result's file holds."""
        return {"codellama_quality": _VERSION, **asdict(self), "speed": None}


def result_path(model: Path) -> Path:
    """Where the result lies if nothing else is said: beside the model."""
    return model.with_name(f"{model.stem}.quality.json")


def read_result(path: Path) -> dict[str, Any] | None:
    """What `measure` wrote there as JSON; None if it is no such file."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(found, dict) and found.get("codellama_quality") == _VERSION
    return found if ours else None


def measure(
    job: QualityJob, output: Path, *, timed: bool = True, progress: Progress | None = None
) -> dict[str, Any]:
    """Carry out `job`, write the result to `output` and return it as JSON; what it has is not measured again.

    Finished chunks are kept in `<output>.part`, with which the same call goes on. `timed` measures the speed
    too, when everything else has been freed. `progress` is called with the tokens done and in all, those of
    the base's own turn among them.

    Raises:
        ModelLoadError, DecodeError: a model is at fault.
        InvalidRequestError: the base has another vocabulary, or a size is out of its range.
        ConversionError: the text or an output is at fault.
    """
    work = _Work(job)
    found = read_result(output)
    if found is None or found.get("identity") != work.identity:
        check_folder(output)
        part = output.with_name(output.name + ".part")
        with ExitStack() as undo:
            found = work.run(part, progress or (lambda done, total: None), undo).to_json()
        _write(output, found)
        part.unlink(missing_ok=True)
    if timed and not found["speed"]:
        found = {**found, "speed": asdict(measure_speed(job.model, job.threads))}
        _write(output, found)
    return found


class _Work:
    """A job with its chunks and its plan; nothing is loaded yet but a vocabulary."""

    def __init__(self, job: QualityJob) -> None:
        self._job = job
        header = read_model(job.model)
        base = read_model(job.against) if job.against else None
        if job.base_file and base is None:
            raise InvalidRequestError(
                "{param} keeps what a base thinks", "base_file", "give {against}"
            )
        self._plan = _plan(job, header, base)
        self._plan.log()
        chunks = _chunks(job, self._plan)
        text = hashlib.sha256(np.asarray(chunks, "<i4").tobytes()).hexdigest()
        self._chunks = chunks[: job.n_chunks]
        self._base_head = {"base": weights_digest(base), "text": text, "kept": KEPT} if base else {}
        self._columns = COMPARED if base else ALONE
        kind = "file" if job.base_file else "beside"
        self._head = {"model": weights_digest(header), **self._base_head, "text": text, "by": kind}
        line = json.dumps({**self._head, "chunks": len(self._chunks)}, sort_keys=True)
        self.identity = hashlib.sha256(line.encode()).hexdigest()

    def run(self, part: Path, progress: Progress, undo: ExitStack) -> Measured:
        """Measure what is not in `part` yet."""
        job, chunks = self._job, self._chunks
        rows = job.chunk_tokens - 1
        turns = 2 if job.base_file else 1
        total = turns * len(chunks) * job.chunk_tokens

        def done(n_chunks: int, turn: int) -> None:
            progress((turn * len(chunks) + n_chunks) * job.chunk_tokens, total)

        kept = self._base_turn(rows, done) if job.base_file else []
        model = Scorer(self._plan.model, job.chunk_tokens, undo)
        kind, shape = np.dtype("<f4"), (rows, len(self._columns))
        with ChunkJournal(part, self._head, kind, shape) as journal:
            if len(journal.chunks) < len(chunks):
                score = self._score(model, kept, undo)
                for index in range(len(journal.chunks), len(chunks)):
                    journal.add(score(index, chunks[index]))
                    done(index + 1, turns - 1)
            tables = [table.astype(np.float64) for table in journal.chunks[: len(chunks)]]
        outside = [records["rest"].mean(dtype=np.float64) for records in kept]
        return Measured(
            model=job.model.name,
            base=job.against.name if job.against else None,
            text=job.text.name if job.text else OWN_TEXT,
            chunk_tokens=job.chunk_tokens,
            n_chunks=len(chunks),
            summary=summarize(tables, job.chunk_tokens),
            positions=by_position(tables, "divergence", _PARTS) if job.against else [],
            outside=float(np.mean(outside)) if outside else None,
            identity=self.identity,
        )

    def _score(self, model: Scorer, kept: Sequence[Any], undo: ExitStack) -> Score:
        if not self._job.against:
            return score_alone(model)
        if self._job.base_file:
            return score_with(model, kept)
        assert self._plan.draft is not None, "the base is planned beside the model"
        return score_beside(model, Scorer(self._plan.draft, self._job.chunk_tokens, undo))

    def _base_turn(self, rows: int, done: Any) -> Sequence[Any]:
        """What the base thinks of every chunk, from its file and else from itself."""
        job, chunks = self._job, self._chunks
        assert job.base_file is not None and job.against is not None
        with (
            ChunkJournal(job.base_file, self._base_head, RECORD, (rows,)) as journal,
            ExitStack() as undo,
        ):
            if len(journal.chunks) < len(chunks):
                plan = plan_load(read_model(job.against), _config(job), this_machine())
                base = Scorer(plan.model, job.chunk_tokens, undo)
                for index in range(len(journal.chunks), len(chunks)):
                    journal.add(base_records(base, index, chunks[index]))
                    done(index + 1, 0)
            return journal.chunks[: len(chunks)]


def _config(job: QualityJob) -> ModelConfig:
    threads = job.threads or "auto"
    return ModelConfig.of(n_ctx=job.chunk_tokens, n_seq_max=1, n_threads=threads)


def _plan(job: QualityJob, header: GGUFHeader, base: GGUFHeader | None) -> LoadPlan:
    """Where the layers go; a base beside the model is placed as a draft model is."""
    if base is not None:
        key = "tokenizer.ggml.tokens"
        if header.metadata.get(key) != base.metadata.get(key):
            raise InvalidRequestError(
                "{param}: {base} has another vocabulary than {model}: compare files of one model",
                "against",
                base=base.path.name,
                model=header.path.name,
            )
        if job.base_file and len(base.metadata[key]) > MOST_TOKENS:
            raise InvalidRequestError(
                "{param} has no room for a vocabulary of more than {most} tokens",
                "base_file",
                most=MOST_TOKENS,
            )
    plan = plan_load(header, _config(job), this_machine(), None if job.base_file else base)
    if not FEWEST_TOKENS <= job.chunk_tokens <= plan.n_ctx_train:
        raise InvalidRequestError(
            "{param} must be from {least} to {most}, the model's context; got {value}",
            "chunk_tokens",
            least=FEWEST_TOKENS,
            most=plan.n_ctx_train,
            value=job.chunk_tokens,
        )
    return plan


def _chunks(job: QualityJob, plan: LoadPlan) -> list[list[int]]:
    """All chunks of the text in the model's tokens."""
    text = read_text(job.text) if job.text else _own_text()
    with ExitStack() as undo:
        tokenizer = open_vocabulary(plan.model, undo)
        tokens = tokenizer.encode(text, add_bos=tokenizer.add_bos)
        bos = tokenizer.bos if tokenizer.add_bos else None
    chunks = list(text_chunks(tokens, job.chunk_tokens, bos))
    if not chunks:
        raise ConversionError(
            f"{job.text or OWN_TEXT}: {len(tokens)} tokens are less than a chunk of {job.chunk_tokens}: "
            "take a longer text"
        )
    return chunks


def _own_text() -> str:
    return files("codellama.quality").joinpath(OWN_TEXT).read_text("utf-8")


def _write(path: Path, document: dict[str, Any]) -> None:
    scratch = path.with_name(path.name + ".new")
    try:
        scratch.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise ConversionError(f"{path}: cannot be written: {error.strerror}") from error
