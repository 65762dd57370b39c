"""The libraries that scripts/carry copies can be used from where they were copied to, each once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHERE = """
from codellama.native.backends import backend_names
from codellama.native.ggml import tensor_type
from codellama.native.library import library

assert library().devices() and "CPU" in backend_names() and tensor_type("Q4_K")
print(open("/proc/self/maps").read())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and names of ELF libraries")
@pytest.mark.skipif(not shutil.which("objdump"), reason="needs binutils")
def test_carried_libraries_are_used(tmp_path: Path) -> None:
    """llama-cpp-python itself would load the libggml beside it, too."""
    folder = tmp_path / "libraries"
    subprocess.run([ROOT / "scripts" / "carry", folder], check=True, capture_output=True)
    environment = os.environ | {"LLAMA_CPP_LIB_PATH": str(folder)}
    found = subprocess.run(
        [sys.executable, "-c", WHERE], env=environment, check=True, capture_output=True, text=True
    )
    used = {Path(line.split()[-1]) for line in found.stdout.splitlines() if "/lib" in line}
    used = {path for path in used if path.name.startswith(("libggml", "libllama"))}
    assert {path.parent for path in used} == {folder}
    assert len(used) == len([path for path in folder.iterdir() if not path.is_symlink()])
