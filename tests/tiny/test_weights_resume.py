"""A run that is interrupted, by whatever, is continued and ends with the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from codellama.errors import ConversionError
from codellama.native.arrays import Bytes
from codellama.weights import plan, recorder
from codellama.weights.convert import RunSettings, convert, convert_to
from codellama.weights.journal import Journal
from codellama.weights.output import Output, journal_path
from codellama.weights.plan import Slab
from codellama.weights.source import SourceTensor, open_checkpoint
from tests.checkpoints import Checkpoint, random_tensors, write_checkpoint, write_json, write_shards

TYPE = "Q4_K_M"


@pytest.fixture(autouse=True)
def many_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small slabs that are noted at once, so that every run has many places to stop at."""
    monkeypatch.setattr(plan, "SLAB_ELEMENTS", 2**13)
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "m", Checkpoint(shards=3))


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    """The file of a run that nobody interrupts."""
    convert(folder, folder.parent / "whole.gguf", TYPE)
    return (folder.parent / "whole.gguf").read_bytes()


class StopError(Exception):
    pass


def stop_after(
    monkeypatch: pytest.MonkeyPatch, count: int, error: BaseException | None = None
) -> list[Slab]:
    """Let writing fail after some slabs; returns the slabs that are written, also later ones."""
    written: list[Slab] = []
    original = Output.write

    def write(self: Output, slab: Slab, encoded: Bytes) -> int:
        if len(written) == count:
            raise error or StopError
        written.append(slab)
        return original(self, slab, encoded)

    monkeypatch.setattr(Output, "write", write)
    return written


def interrupted(folder: Path, target: Path, count: int = 40) -> None:
    """Leave behind what a run leaves that ends after `count` slabs."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, count)
        with pytest.raises(StopError):
            convert(folder, target, TYPE, threads=2)


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_the_same_command_goes_on_where_it_was(
    folder: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.gguf"
    interrupted(folder, target)
    assert names(target) == ["x.gguf.journal", "x.gguf.part"]
    written = stop_after(monkeypatch, -1)
    progress: list[int] = []
    convert(folder, target, TYPE, progress=lambda done, _: progress.append(done))
    assert target.read_bytes() == whole
    assert names(target) == ["x.gguf", "x.gguf.manifest.json"]
    n_slabs = sum(1 for _ in plan.slabs(convert_source(folder)))
    assert n_slabs - 40 <= len(written) <= n_slabs - 30  # a few were not noted in time
    assert progress == sorted(progress)
    assert progress[-1] == sum(array.nbytes for _, _, array in random_tensors(Checkpoint()))


def convert_source(folder: Path) -> list[SourceTensor]:
    with open_checkpoint(folder) as source:
        return list(source.tensors)


def test_threads_may_change_and_the_folder_may_move(
    folder: Path, whole: bytes, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "m"
    moved.parent.mkdir()
    target = tmp_path / "x.gguf"
    interrupted(folder, target)
    os.symlink(folder, moved)
    convert(moved, target, TYPE, threads=5)
    assert target.read_bytes() == whole


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_and_ctrl_c_lose_nothing(
    folder: Path,
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    target = tmp_path / "x.gguf"
    target.write_bytes(b"old")
    with monkeypatch.context() as patch:
        stop_after(patch, 30, error)
        with pytest.raises((ConversionError, KeyboardInterrupt)) as caught:
            convert(folder, target, TYPE, force=True)
    if isinstance(error, OSError):
        assert str(caught.value).endswith(
            "cannot be written: the disk is full; the same command goes on where it was"
        )
    assert target.read_bytes() == b"old"
    written = stop_after(monkeypatch, -1)
    convert(folder, target, TYPE, force=True)
    assert len(written) < 300
    assert target.read_bytes() == whole


def test_one_type_of_several_can_be_continued_alone(
    folder: Path, whole: bytes, tmp_path: Path
) -> None:
    targets = {TYPE: tmp_path / "a.gguf", "Q8_0": tmp_path / "b.gguf"}
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 50)
        with pytest.raises(StopError):
            convert_to(folder, targets, RunSettings())
    convert(folder, targets[TYPE], TYPE)
    assert targets[TYPE].read_bytes() == whole
    convert(folder, targets["Q8_0"], "Q8_0")
    convert(folder, tmp_path / "c.gguf", "Q8_0")
    assert targets["Q8_0"].read_bytes() == (tmp_path / "c.gguf").read_bytes()


def damage_part(target: Path) -> None:
    part = target.with_name("x.gguf.part")
    data = bytearray(part.read_bytes())
    data[9000:12000] = bytes(3000)
    part.write_bytes(data)


def shorten_part(target: Path) -> None:
    os.truncate(target.with_name("x.gguf.part"), 100)


def remove_part(target: Path) -> None:
    target.with_name("x.gguf.part").unlink()


def tear_last_line(target: Path) -> None:
    journal = journal_path(target)
    journal.write_bytes(journal.read_bytes()[:-5])


def append_nonsense(target: Path) -> None:
    with journal_path(target).open("ab") as file:
        file.write(b"99999999 00000000\n7 12345678\nnonsense\n3 00000000\n")


def only_half_a_first_line(target: Path) -> None:
    journal_path(target).write_bytes(b'{"codellama jour')


@pytest.mark.parametrize(
    "harm",
    [
        damage_part,
        shorten_part,
        remove_part,
        tear_last_line,
        append_nonsense,
        only_half_a_first_line,
    ],
)
def test_what_a_power_cut_may_do_is_noticed_and_made_good(
    folder: Path, whole: bytes, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    target = tmp_path / "x.gguf"
    interrupted(folder, target)
    harm(target)
    convert(folder, target, TYPE)
    assert target.read_bytes() == whole
    assert names(target) == ["x.gguf", "x.gguf.manifest.json"]


def test_a_run_killed_between_the_names_is_finished(
    folder: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "x.gguf"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", stop)
        with pytest.raises(StopError):
            convert(folder, target, TYPE)
    assert names(target) == ["x.gguf", "x.gguf.journal", "x.gguf.manifest.json"]
    written = stop_after(monkeypatch, 0)
    convert(folder, target, TYPE)
    assert written == []
    assert target.read_bytes() == whole
    assert names(target) == ["x.gguf", "x.gguf.manifest.json"]


def stop(*_: object) -> None:
    raise StopError


def test_a_journal_of_another_plan_is_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    interrupted(folder, target)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConversionError, match=r"had another type \(Q4_K_M, now Q8_0\)"):
        convert(folder, target, "Q8_0")
    with pytest.raises(ConversionError, match=r"another split size \(none, now 90000\)"):
        convert(folder, target, TYPE, split_bytes=90000)
    other = write_checkpoint(tmp_path / "other" / "m", Checkpoint(seed=1, shards=3))
    with pytest.raises(ConversionError, match="another weight files"):
        convert(other, target, TYPE)
    renamed = write_checkpoint(tmp_path / "renamed")
    with pytest.raises(ConversionError, match=r"another source \(m, now renamed\).* restart "):
        convert(renamed, target, TYPE)
    assert {name: (tmp_path / name).read_bytes() for name in left} == left
    convert(folder, target, "Q8_0", restart=True)
    found = sorted(p.name for p in tmp_path.iterdir() if p.is_file())
    assert found == ["x.gguf", "x.gguf.manifest.json"]


@pytest.mark.parametrize("head", [b"{}", b"[1]", b"\xff", b'{"codellama journal": "99"}', b"3"])
def test_a_foreign_journal_is_not_touched(folder: Path, tmp_path: Path, head: bytes) -> None:
    journal = tmp_path / "x.gguf.journal"
    journal.write_bytes(head + b"\n")
    with pytest.raises(ConversionError, match="not a journal of this program|another journal vers"):
        convert(folder, tmp_path / "x.gguf", TYPE)
    assert journal.read_bytes() == head + b"\n"


def test_weights_that_no_repeat_can_help_leave_nothing(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", Checkpoint(dtype="F32"))
    tensors = list(random_tensors(Checkpoint(dtype="F32")))
    tensors[-1][2][-1, -1] = float("nan")
    write_shards(folder, tensors, 2)
    with pytest.raises(ConversionError, match="NaN"):
        convert(folder, tmp_path / "x.gguf", TYPE)
    assert os.listdir(tmp_path) == ["m"]


def test_a_bad_output_among_several_leaves_the_others_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "b.gguf").write_bytes(b"old")
    targets = {TYPE: tmp_path / "a.gguf", "Q8_0": tmp_path / "b.gguf"}
    with pytest.raises(ConversionError, match="b.gguf: exists already"):
        convert_to(folder, targets, RunSettings())
    assert os.listdir(tmp_path) == ["b.gguf"]


SLOW_RUN = """
import sys, time
from codellama.cli import main
from codellama.weights import output, plan, recorder
plan.SLAB_ELEMENTS, recorder.CHECKPOINT_SECONDS = 2**13, 0.0
original = output.Output.write
def write(self, slab, encoded):
    time.sleep(0.002)
    return original(self, slab, encoded)
output.Output.write = write
main(sys.argv[1:])
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_RUN, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_lines(target: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the journal has so many lines, or the run is over."""
    while process.poll() is None:
        if journal_path(target).exists() and journal_path(target).read_bytes().count(b"\n") > count:
            return
        time.sleep(0.002)


def test_kill_9_at_any_moment_changes_no_byte(folder: Path, whole: bytes, tmp_path: Path) -> None:
    generator = random.Random(7)
    target = tmp_path / "x.gguf"
    kills = 0
    for _ in range(12):
        process = start("convert", folder, "-o", target, "--type", TYPE)
        held = len(journal_path(target).read_bytes().splitlines()) if kills else 0
        wait_for_lines(target, held + generator.randrange(60), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if target.exists() and not journal_path(target).exists():
            break
        kills += 1
    assert kills >= 3
    convert(folder, target, TYPE, force=True)
    assert target.read_bytes() == whole
    assert names(target) == ["x.gguf", "x.gguf.manifest.json"]


def test_ctrl_c_leaves_at_once_and_says_how_to_go_on(
    folder: Path, whole: bytes, tmp_path: Path
) -> None:
    target = tmp_path / "x.gguf"
    process = start("convert", folder, "-o", target, "--type", TYPE, "--json")
    wait_for_lines(target, 30, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (130, "")
    assert "Interrupted at" in stderr
    assert stderr.endswith("%: the same command goes on from there.\n")
    assert names(target) == ["x.gguf.journal", "x.gguf.part"]
    again = start("convert", folder, "-o", target, "--type", TYPE, "--json")
    stdout, stderr = again.communicate()
    assert (again.returncode, stderr) == (0, "")
    assert json.loads(stdout)["bytes"] == len(whole)
    assert target.read_bytes() == whole


def test_a_changed_config_is_another_layout(folder: Path, tmp_path: Path) -> None:
    copy = write_checkpoint(tmp_path / "m", Checkpoint(shards=3))
    interrupted(copy, tmp_path / "x.gguf")
    config = json.loads((copy / "config.json").read_text())
    write_json(copy / "config.json", {**config, "rope_theta": 1e6})
    with pytest.raises(ConversionError, match="had another layout"):
        convert(copy, tmp_path / "x.gguf", TYPE)
