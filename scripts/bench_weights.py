#!/usr/bin/env python3
"""Measure checkpoint → quantized GGUF against llama.cpp's converter and quantizer, and compare the bytes.

    bench_weights.py --work FOLDER              full-width layers of the 70B: two of them, and embeddings
    bench_weights.py --work FOLDER --quick      tiny layers, to see that it works

Both sides start from the same bf16 safetensors and end with the same type. Theirs is convert_hf_to_gguf.py
to BF16, then llama-quantize (scripts/build_llama_tools). Runs are interleaved; the table shows the medians
and the median of our value ÷ theirs, with what was wanted. Memory is what processes hold for
themselves, without mapped files. Then the demo checkpoint goes to every type that llama-quantize offers,
the smallest with an importance matrix by llama-imatrix, and the tensors are compared byte by byte. The last
line of the output is one JSON document. The folder needs room for about 12 GB.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench import servers
from bench.client import BenchError
from bench.report import Row, heading, publish, table
from make_random_model import made_up
from stand_ins.checkpoint import CODELLAMA_70B, TINY, MadeUpCheckpoint
from stand_ins.watch import Usage, run

ROOT = servers.ROOT
OURS, THEIRS = "codellama", "convert + llama-quantize"
NEED_IMATRIX = ("IQ2_XXS", "IQ2_XS", "IQ1_S", "IQ3_XXS", "Q2_K_S")
"""Compared with the same importance matrix; the others of the small types need one too."""
TYPE_LINE = re.compile(r"^ +\d+ +or +(\w+) +: (?!alias)", re.MULTILINE)
CALIBRATION = ROOT / "scripts" / "demo_data" / "basics.md"


@click.command()
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="A folder."
)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True)
@click.option("--type", "type_name", default="Q4_K_M", show_default=True)
@click.option("--layers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=os.cpu_count(), show_default=True)
@click.option("--no-speed", is_flag=True, help="Compare bytes only.")
@click.option("--no-bytes", is_flag=True, help="Measure speed only.")
@click.option("--quick", is_flag=True, help="Tiny sizes.")
def main(
    work: Path,
    runs: int,
    type_name: str,
    layers: int,
    threads: int,
    no_speed: bool,
    no_bytes: bool,
    quick: bool,
) -> None:
    """Measure and compare."""
    work.mkdir(parents=True, exist_ok=True)
    settings = {
        "type": type_name, "layers": layers, "threads": threads, "runs": runs, "quick": quick,
    }  # fmt: skip
    document = heading("weights", settings, servers.versions())
    tables = []
    try:
        if not no_speed:
            shape = replace(TINY if quick else CODELLAMA_70B, layers=layers)
            rows = Speed(work, shape.vocab, type_name, threads).measure(
                MadeUpCheckpoint(shape, made_up(shape.vocab).of_tokenizer), runs
            )
            document["results"] = [row.to_json() for row in rows]
            tables.append(table(f"{runs} runs, medians", rows))
        if not no_bytes:
            document["bytes"] = compare_types(work, threads)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    publish(document, tables)
    if not no_bytes and document["bytes"]["different"]:
        raise click.ClickException(f"other bytes: {document['bytes']['different']}")


class Speed:
    """Both ways from one checkpoint to one type."""

    def __init__(self, work: Path, vocab: int, type_name: str, threads: int) -> None:
        self.work = work
        self.folder = work / "CodeLlama-70b-Instruct-hf"
        self.ours, self.theirs = work / "ours.gguf", work / "theirs.gguf"
        self.middle = work / "middle.gguf"
        self.type = type_name
        self.threads = threads

    def measure(self, checkpoint: MadeUpCheckpoint, runs: int) -> list[Row]:
        """The rows of the table; the files are deleted. Raises BenchError."""
        say(f"writing {checkpoint.weight_bytes / 1e9:.2f} GB of weights")
        checkpoint.write(self.folder)
        ours, converted, quantized = [], [], []
        try:
            for number in range(runs):
                ours.append(self._ours())
                converted.append(self._convert())
                quantized.append(self._quantize())
                say(
                    f"run {number + 1}: {ours[-1].seconds:.1f} s, theirs "
                    f"{converted[-1].seconds:.1f} + {quantized[-1].seconds:.1f} s"
                )
            check_equal(self.ours, self.theirs)
            size = self.ours.stat().st_size
        finally:
            shutil.rmtree(self.folder)
            for path in (*self.work.glob("ours.gguf*"), self.theirs, self.middle):
                path.unlink(missing_ok=True)
        return self._rows(ours, converted, quantized, checkpoint.weight_bytes / 2, size)

    def _rows(
        self,
        ours: list[Usage],
        converted: list[Usage],
        quantized: list[Usage],
        weights: float,
        size: int,
    ) -> list[Row]:
        both = list(zip(converted, quantized, strict=True))
        return [
            _row(
                "seconds",
                "bf16 safetensors to " + self.type,
                "s",
                [u.seconds for u in ours],
                [a.seconds + b.seconds for a, b in both],
                0.75,
            ),
            Row(
                "per_weight",
                "a billion weights, against llama-quantize alone",
                "s",
                "less",
                {
                    OURS: [u.seconds / weights * 1e9 for u in ours],
                    "llama-quantize": [u.seconds / weights * 1e9 for u in quantized],
                },
                {"llama-quantize": 1.0},
            ),
            _row(
                "cpu_seconds",
                "processor time",
                "s",
                [u.cpu_seconds for u in ours],
                [a.cpu_seconds + b.cpu_seconds for a, b in both],
            ),
            _row(
                "memory",
                "peak memory",
                "MB",
                [u.peaks.anonymous / 1e6 for u in ours],
                [max(a.peaks.anonymous, b.peaks.anonymous) / 1e6 for a, b in both],
                0.25,
            ),
            _row(
                "written",
                "bytes written ÷ output",
                "",
                [u.written / size for u in ours],
                [(a.written + b.written) / size for a, b in both],
                limit=1.01,
            ),
        ]

    def _ours(self) -> Usage:
        for path in self.work.glob("ours.gguf*"):
            path.unlink()
        command = [sys.executable, "-m", "codellama", "convert", str(self.folder)]
        command += ["-o", str(self.ours), "--type", self.type, "--threads", str(self.threads)]
        return run(command)

    def _convert(self) -> Usage:
        self.middle.unlink(missing_ok=True)
        return run(their_convert(self.folder, self.middle))

    def _quantize(self) -> Usage:
        self.theirs.unlink(missing_ok=True)
        program = str(servers.tool("llama-quantize"))
        return run([program, str(self.middle), str(self.theirs), self.type, str(self.threads)])


def _row(
    key: str,
    title: str,
    unit: str,
    ours: list[float],
    theirs: list[float],
    wanted: float | None = None,
    limit: float | None = None,
) -> Row:
    marks = {} if wanted is None else {THEIRS: wanted}
    return Row(key, title, unit, "less", {OURS: ours, THEIRS: theirs}, marks, limit)


def their_convert(folder: Path, output: Path) -> list[str]:
    """The command of llama.cpp's converter. Raises BenchError if its source is not there."""
    found = subprocess.run(
        [ROOT / "scripts" / "llama_cpp_source", "--cached"], capture_output=True, text=True
    )
    if found.returncode:
        raise BenchError("no llama.cpp source: run scripts/llama_cpp_source")
    script = Path(found.stdout.strip(), "vendor", "llama.cpp", "convert_hf_to_gguf.py")
    return [sys.executable, str(script), str(folder), "--outfile", str(output), "--outtype", "bf16"]


def compare_types(work: Path, threads: int) -> dict[str, Any]:
    """The demo checkpoint in every type of llama-quantize's list, ours against theirs.

    Which types are `identical`, `different`, and `refused` by both sides, each a list of names.
    Raises BenchError.
    """
    program = str(servers.tool("llama-quantize"))
    listed = subprocess.run([program, "--help"], capture_output=True, text=True)
    types = TYPE_LINE.findall(listed.stdout + listed.stderr)
    source, middle = ROOT / "models" / "demo", work / "demo.gguf"
    run(their_convert(source, middle))
    imatrix = work / "demo.imatrix.gguf"
    collect = [str(servers.tool("llama-imatrix")), "-m", str(middle), "-f", str(CALIBRATION)]
    run([*collect, "-o", str(imatrix), "-c", "512", "--chunks", "4", "-t", str(threads)])
    result: dict[str, Any] = {"identical": [], "different": [], "refused": []}
    for type_name in [*types, *(f"{name} with imatrix" for name in NEED_IMATRIX)]:
        outcome = _compare_type(work, source, middle, imatrix, type_name)
        result[outcome].append(type_name)
        say(f"{type_name}: {outcome}")
    for path in work.glob("demo*"):
        path.unlink()
    return result


def _compare_type(work: Path, source: Path, middle: Path, imatrix: Path, type_name: str) -> str:
    name, _, weighted = type_name.partition(" ")
    ours, theirs = work / "demo.ours.gguf", work / "demo.theirs.gguf"
    mine = [sys.executable, "-m", "codellama", "convert", str(source), "-o", str(ours), "-f"]
    mine += ["--type", name]
    other = [str(servers.tool("llama-quantize"))]
    if weighted:
        mine += ["--imatrix", str(imatrix)]
        other += ["--imatrix", str(imatrix)]
    codes = [
        subprocess.run(command, capture_output=True).returncode
        for command in (mine, [*other, str(middle), str(theirs), name])
    ]
    if all(codes):
        return "refused"
    if any(codes):
        return "different"
    try:
        check_equal(ours, theirs)
    except BenchError:
        return "different"
    return "identical"


def check_equal(ours: Path, theirs: Path) -> None:
    """Raise BenchError unless both files hold the same tensors, byte for byte."""
    a, b = _tensors(ours), _tensors(theirs)
    wrong = [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]
    if wrong:
        raise BenchError(f"{len(wrong)} tensors differ, the first is {wrong[0]}")


def _tensors(path: Path) -> dict[str, tuple[object, ...]]:
    """Type, shape and SHA-256 by name."""
    from codellama.files.gguf_header import read_gguf_header

    found: dict[str, tuple[object, ...]] = {}
    with path.open("rb") as file:
        for tensor in read_gguf_header(path).tensors:
            file.seek(tensor.offset)
            digest = hashlib.sha256(file.read(tensor.nbytes)).hexdigest()
            found[tensor.name] = (tensor.type_name, tensor.shape, digest)
    return found


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
