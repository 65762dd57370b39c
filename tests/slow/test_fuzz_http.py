"""As tests/fuzzing/test_http.py, with ten thousand requests, after which the server is no larger."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from codellama.constraints import limits
from tests.fuzzing.http_requests import CACHE_MIB
from tests.fuzzing.test_http import LINUX, fuzz_http

# The caches of grammars and prompts, which fill up, and what is allocated once
MOST_GROWTH_KIB = (limits.CACHE_BYTES >> 10) + 1024 * (CACHE_MIB + 32)


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="what a process has open is read from /proc")
def test_ten_thousand_mutated_requests(tiny_gguf: Path, tmp_path: Path) -> None:
    result = fuzz_http(2, 10_000, tmp_path, tiny_gguf, timeout=7200)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    assert result["after"]["kib"] - result["before"]["kib"] < MOST_GROWTH_KIB
