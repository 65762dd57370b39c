"""An hour of everything at once; `CODELLAMA_SOAK_MINUTES` makes it shorter or longer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codellama.models import demo_gguf

pytestmark = pytest.mark.slow

SOAK = Path(__file__).resolve().parents[2] / "scripts" / "soak.py"


def test_nothing_grows_in_an_hour() -> None:
    minutes = os.environ.get("CODELLAMA_SOAK_MINUTES", "60")
    command = [sys.executable, str(SOAK), str(demo_gguf()), "--minutes", minutes]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == []
    assert done.returncode == 0
