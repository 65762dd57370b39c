#!/usr/bin/env python3
"""Measure checkpoint → quantized GGUF against llama.cpp's converter and quantizer, and compare the bytes.

    bench_weights.py --work FOLDER              full-width layers of the 70B: two of them, and embeddings
    bench_weights.py --work FOLDER --quick      tiny layers, to see that it works
    bench_weights.py --work FOLDER --no-speed --no-bytes      the quantizers by themselves

Both sides start from the same bf16 safetensors and end with the same type. Theirs is convert_hf_to_gguf.py
to BF16, then llama-quantize (scripts/build_llama_tools). Then both quantize that BF16 GGUF, to one type and
to three, which we make from one reading. Runs are interleaved; the table shows the medians and the median of
our value ÷ theirs, with what was wanted. Memory is what processes hold for themselves, without mapped files.
A second table has the quantizers by themselves, ours and ggml's, and a third the steps of a slab.

Then the demo checkpoint, the same in F32, and one of 80 layers go to every type that llama-quantize offers,
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
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench import quantizing, servers
from bench.client import BenchError
from bench.report import Row, heading, publish, table
from make_random_model import made_up
from stand_ins.checkpoint import CODELLAMA_70B, TINY, MadeUpCheckpoint
from stand_ins.formats import safetensors_head
from stand_ins.watch import Usage, run

ROOT = servers.ROOT
OURS, THEIRS, BY_GGML = "codellama", "llama.cpp's programs", "with ggml's quantizers"
SEVERAL = ("Q4_K_M", "Q5_K_M", "Q6_K")
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
@click.option("--no-arithmetic", is_flag=True, help="Without the quantizers by themselves.")
@click.option("--quick", is_flag=True, help="Tiny sizes.")
def main(
    work: Path,
    runs: int,
    type_name: str,
    layers: int,
    threads: int,
    no_speed: bool,
    no_bytes: bool,
    no_arithmetic: bool,
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
            rows = Speed(work, type_name, threads).measure(
                MadeUpCheckpoint(shape, made_up(shape.vocab).of_tokenizer), runs
            )
            document["results"] = [row.to_json() for row in rows]
            tables.append(table(f"{runs} runs, medians", rows))
        if not no_arithmetic:
            for key, title, rows in (
                ("arithmetic", "one thread, a weight", quantizing.arithmetic(max(runs, 5))),
                (
                    "steps",
                    "one thread, a weight of a slab",
                    quantizing.steps_of_a_slab("Q4_K", runs),
                ),
            ):
                document[key] = [row.to_json() for row in rows]
                tables.append(table(title, rows))
        if not no_bytes:
            document["bytes"] = compare_types(work, threads)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    publish(document, tables)
    if not no_bytes and document["bytes"]["different"]:
        raise click.ClickException(f"other bytes: {document['bytes']['different']}")


class Speed:
    """Both ways from one checkpoint to one type, and what belongs to it."""

    def __init__(self, work: Path, type_name: str, threads: int) -> None:
        self.work = work
        self.folder = work / "CodeLlama-70b-Instruct-hf"
        self.middle = work / "middle.gguf"
        self.type = type_name
        self.threads = threads
        self.runs: dict[str, list[Usage]] = defaultdict(list)

    def measure(self, checkpoint: MadeUpCheckpoint, runs: int) -> list[Row]:
        """The rows of the table; the files are deleted. Raises BenchError."""
        say(f"writing {checkpoint.weight_bytes / 1e9:.2f} GB of weights")
        checkpoint.write(self.folder)
        try:
            for number in range(runs):
                self._round()
                took = ", ".join(
                    f"{name} {used[-1].seconds:.1f} s" for name, used in self.runs.items()
                )
                say(f"run {number + 1}: {took}")
            for type_name in {self.type, *SEVERAL}:
                check_equal(self._ours(type_name), self._theirs(type_name))
            size = self._ours(self.type).stat().st_size
        finally:
            shutil.rmtree(self.folder)
            for path in (*self.work.glob("ours.*"), *self.work.glob("theirs.*"), self.middle):
                path.unlink(missing_ok=True)
        return self._rows(checkpoint.weight_bytes / 2, size)

    def _ours(self, type_name: str) -> Path:
        return self.work / f"ours.{type_name}.gguf"

    def _theirs(self, type_name: str) -> Path:
        return self.work / f"theirs.{type_name}.gguf"

    def _round(self) -> None:
        """Every case once, ours and theirs in turn."""
        self._run("ours", self._command("convert", self.folder, self.type))
        self.middle.unlink(missing_ok=True)
        self._run("their converter", their_convert(self.folder, self.middle))
        self._run("theirs", self._their_quantize(self.type))
        self._run("ours from GGUF", self._command("quantize", self.middle, self.type))
        self._run("theirs from GGUF", self._their_quantize(self.type))
        self._run("ours, three", self._command("quantize", self.middle, *SEVERAL))
        for type_name in SEVERAL:
            self._run(f"their {type_name}", self._their_quantize(type_name))
        environment = {**os.environ, "CODELLAMA_QUANTIZERS": "ggml"}
        self._run("ours by ggml", self._command("convert", self.folder, self.type), environment)

    def _run(
        self, name: str, command: list[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.runs[name].append(run(command, environment))

    def _command(self, verb: str, source: Path, *types: str) -> list[str]:
        command = [sys.executable, "-m", "codellama", verb, str(source), "--force"]
        command += ["-o", str(self.work / "ours.{type}.gguf"), "--threads", str(self.threads)]
        return command + [word for name in types for word in ("--type", name)]

    def _their_quantize(self, type_name: str) -> list[str]:
        output = self._theirs(type_name)
        output.unlink(missing_ok=True)
        program = str(servers.tool("llama-quantize"))
        return [program, str(self.middle), str(output), type_name, str(self.threads)]

    def _sums(self, *names: str, of: str = "seconds") -> list[float]:
        """What the runs of these commands took together, one number for each round."""
        together = zip(*(self.runs[name] for name in names), strict=True)
        return [sum(getattr(used, of) for used in one) for one in together]

    def _rows(self, weights: float, size: int) -> list[Row]:
        both, ours = ("their converter", "theirs"), self.runs["ours"]
        three, their_three = self._sums("ours, three"), [f"their {name}" for name in SEVERAL]
        seconds = {
            OURS: self._sums("ours"),
            THEIRS: self._sums(*both),
            BY_GGML: self._sums("ours by ggml"),
        }
        per_weight = {
            OURS: [taken / weights * 1e9 for taken in self._sums("ours")],
            THEIRS: [taken / weights * 1e9 for taken in self._sums("theirs")],
        }
        peaks = [
            max(one.peaks.anonymous, two.peaks.anonymous) / 1e6 for one, two in self._pairs(both)
        ]
        memory = {OURS: [used.peaks.anonymous / 1e6 for used in ours], THEIRS: peaks}
        written = {
            OURS: [used.written / size for used in ours],
            THEIRS: [taken / size for taken in self._sums(*both, of="written")],
        }
        gguf = {OURS: self._sums("ours from GGUF"), THEIRS: self._sums("theirs from GGUF")}
        several = {OURS: three, THEIRS: self._sums(*their_three)}
        cpu = {
            OURS: self._sums("ours", of="cpu_seconds"),
            THEIRS: self._sums(*both, of="cpu_seconds"),
        }
        return [
            _row("seconds", f"bf16 safetensors to {self.type}", "s", seconds, 0.18),
            _row("quantize", f"BF16 GGUF to {self.type}, against llama-quantize", "s", gguf, 0.22),
            _row("several", f"BF16 GGUF to {', '.join(SEVERAL)}", "s", several, 0.25),
            _row("per_weight", "a billion weights, against llama-quantize alone", "s", per_weight),
            _row("cpu_seconds", "processor time", "s", cpu),
            _row("memory", "peak memory", "MB", memory, 0.10),
            _row("written", "bytes written ÷ output", "", written, limit=1.01),
        ]

    def _pairs(self, names: tuple[str, str]) -> list[tuple[Usage, Usage]]:
        first, second = names
        return list(zip(self.runs[first], self.runs[second], strict=True))


def _row(
    key: str,
    title: str,
    unit: str,
    values: dict[str, list[float]],
    wanted: float | None = None,
    limit: float | None = None,
) -> Row:
    marks = {} if wanted is None else {THEIRS: wanted}
    return Row(key, title, unit, "less", values, marks, limit)


def their_convert(folder: Path, output: Path) -> list[str]:
    """The command of llama.cpp's converter. Raises BenchError if its source is not there."""
    found = subprocess.run(
        [ROOT / "scripts" / "llama_cpp_source", "--cached"], capture_output=True, text=True
    )
    if found.returncode:
        raise BenchError("no llama.cpp source: run scripts/llama_cpp_source")
    script = Path(found.stdout.strip(), "vendor", "llama.cpp", "convert_hf_to_gguf.py")
    return [sys.executable, str(script), str(folder), "--outfile", str(output), "--outtype", "bf16"]


def compare_types(work: Path, threads: int) -> dict[str, list[str]]:
    """Every type of llama-quantize's list, ours against theirs, from each of `sources`.

    Which types are `identical`, `different`, and `refused` by both sides, each a list of source and
    type. Raises BenchError.
    """
    program = str(servers.tool("llama-quantize"))
    listed = subprocess.run([program, "--help"], capture_output=True, text=True)
    types = TYPE_LINE.findall(listed.stdout + listed.stderr)
    result: dict[str, list[str]] = {"identical": [], "different": [], "refused": []}
    for name, folder in sources(work).items():
        comparison = Comparison(work, folder, threads)
        for type_name in [*types, *(f"{name} with imatrix" for name in NEED_IMATRIX)]:
            outcome = comparison.outcome(type_name)
            result[outcome].append(f"{name}, {type_name}")
            say(f"{name}, {type_name}: {outcome}")
        for path in work.glob("compared.*"):
            path.unlink()
        if folder.is_relative_to(work):
            shutil.rmtree(folder)
    return result


def sources(work: Path) -> dict[str, Path]:
    """Checkpoints by a name: the demo model as it is and in F32, and one of 80 layers in bf16."""
    demo = ROOT / "models" / "demo"
    wide = work / "demo-F32"
    shutil.copytree(demo, wide, dirs_exist_ok=True)
    for path in wide.glob("*.safetensors"):
        path.write_bytes(in_f32(path))
    deep = replace(TINY, layers=CODELLAMA_70B.layers)
    made = MadeUpCheckpoint(deep, made_up(deep.vocab).of_tokenizer).write(work / "80-layers")
    return {"demo": demo, "demo in F32": wide, "80 layers": made}


def in_f32(path: Path) -> bytes:
    """A bf16 safetensors file with each weight as an F32 near it, so that no bit of the F32 is spare."""
    from codellama.files.safetensors_header import read_safetensors_header

    header: dict[str, Any] = {}
    parts: list[bytes] = []
    end = 0
    generator = np.random.default_rng(32)
    data = path.read_bytes()
    for tensor in read_safetensors_header(path):
        stored = np.frombuffer(data, np.uint16, tensor.nbytes // 2, tensor.offset)
        low = generator.integers(0, 2**16, stored.size, np.uint32)
        parts.append((stored.astype(np.uint32) << 16 | low).tobytes())
        begin, end = end, end + len(parts[-1])
        header[tensor.name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, end]}
    return safetensors_head(header) + b"".join(parts)


class Comparison:
    """One checkpoint made to one type after another by both sides, in the folder `work`."""

    def __init__(self, work: Path, source: Path, threads: int) -> None:
        self.source = source
        self.middle = work / "compared.gguf"
        self.ours, self.theirs = work / "compared.ours.gguf", work / "compared.theirs.gguf"
        self.imatrix = work / "compared.imatrix.gguf"
        run([*their_convert(source, self.middle)[:-1], "f32"])
        collect = [str(servers.tool("llama-imatrix")), "-m", str(self.middle), "-c", "512"]
        collect += ["-f", str(CALIBRATION), "-o", str(self.imatrix), "--chunks", "4"]
        run([*collect, "-t", str(threads)])

    def outcome(self, type_name: str) -> str:
        """`identical`, `different` or `refused`; the name may end in "with imatrix"."""
        name, _, weighted = type_name.partition(" ")
        mine = [sys.executable, "-m", "codellama", "convert", str(self.source), "-f"]
        mine += ["-o", str(self.ours), "--type", name]
        other = [str(servers.tool("llama-quantize"))]
        if weighted:
            mine += ["--imatrix", str(self.imatrix)]
            other += ["--imatrix", str(self.imatrix)]
        codes = [
            subprocess.run(command, capture_output=True).returncode
            for command in (mine, [*other, str(self.middle), str(self.theirs), name])
        ]
        if all(codes):
            return "refused"
        if any(codes):
            return "different"
        try:
            check_equal(self.ours, self.theirs)
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
