"""The process that reads mutated files: `python -m tests.fuzzing.child KIND SEED FIRST COUNT FOLDER`.

Before each case its number goes to the file `case`, so that whoever started this process knows where it
died. A case that takes too much processor time ends the process by SIGPROF (whoever waits for it notices one
that sleeps); what one may allocate is limited. The result, or the first failure, is a JSON object on stdout.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from codellama.errors import CodeLlamaError
from tests.fuzzing.brought_kinds import BROUGHT
from tests.fuzzing.kinds import KINDS, Kind
from tests.fuzzing.largest import Largest
from tests.fuzzing.native_kinds import NATIVE
from tests.fuzzing.weight_kinds import WEIGHT_KINDS

MOST_BYTES = 200 * 2**20
_MOST_MESSAGE = 2000


@dataclass
class Result:
    """What came of the cases; memory is how much the peak grew, in bytes, over that of a good file."""

    cases: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_case: int = -1
    memory: int = 0
    failed: int | None = None
    reason: str = ""


def main() -> None:
    """Run the cases that the command line names."""
    name, seed, first, count, folder = sys.argv[1:]
    numbers = range(int(first), int(first) + int(count))
    result = run(name, seed, numbers, Path(folder))
    sys.stdout.write(json.dumps(asdict(result)) + "\n")


def run(name: str, seed: str, numbers: range, folder: Path) -> Result:
    """Run the cases `numbers`; stops at the first that does what none may do."""
    (folder / "files").mkdir()
    kind = {**KINDS, **BROUGHT, **WEIGHT_KINDS, **NATIVE, "largest": Largest}[name](
        folder / "files"
    )
    kind.read()  # the good file is one
    result = Result()
    before = _peak()
    if kind.limited:
        _limit_memory()
    started = time.monotonic()
    place = os.open(folder / "case", os.O_WRONLY | os.O_CREAT)
    for number in numbers:
        os.pwrite(place, struct.pack("<q", number), 0)
        kind.write(Random(f"{name} {seed} {number}"))
        if not _attempt(kind, result, number):
            break
    result.seconds = time.monotonic() - started
    result.memory = _peak() - before
    return result


def _attempt(kind: Kind, result: Result, number: int) -> bool:
    signal.setitimer(signal.ITIMER_PROF, kind.seconds)
    started = time.process_time()
    try:
        kind.read()
        result.accepted += 1
    except kind.errors as error:
        result.reason = _bad_message(kind, error) if kind.limited else ""
    except Exception:
        result.reason = traceback.format_exc()
    signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - started
    if seconds > result.slowest:
        result.slowest, result.slowest_case = seconds, number
    result.cases += 1
    result.failed = number if result.reason else None
    return not result.reason


def _bad_message(kind: Kind, error: CodeLlamaError) -> str:
    """Why a message is none to show to people, or nothing."""
    text = str(error)
    if str(kind.folder) not in text:
        return f"the message names no file: {text[:_MOST_MESSAGE]}"
    if not text.isprintable() or len(text) > _MOST_MESSAGE:
        return f"the message is not one line of text: {ascii(text[:_MOST_MESSAGE])}"
    return ""


def _limit_memory() -> None:
    """Of the address space, where that is known: what is asked for beyond is a MemoryError."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, resource.RLIM_INFINITY))


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
