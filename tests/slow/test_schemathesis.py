"""schemathesis on /openapi.json: ten thousand requests made of what it says, and no error 500.

The tool is unmodified, in an environment of its own (scripts/tool_venv schemathesis). 501 and 503 are
answers of routes that are off and of a full queue.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from codellama.llm import LLM
from codellama.models import demo_gguf
from codellama.params import SamplingOptions
from codellama.server.config import ServerConfig
from tests.live_server import running

ROOT = Path(__file__).parents[2]
SETTINGS = """[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 501, 503]
"""
EXAMPLES = 30
"""Of each operation, beside those that the tool derives from the schemas."""


def tool() -> str:
    """The command; skips where its environment cannot be made."""
    made = subprocess.run(
        ["scripts/tool_venv", "schemathesis"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"scripts/tool_venv schemathesis: {made.stderr[-300:]}")
    return str(Path(made.stdout.strip()).with_name("schemathesis"))


@pytest.mark.slow
def test_no_request_made_from_the_schemas_is_an_error_of_the_server(tmp_path: Path) -> None:
    command = tool()
    (tmp_path / "slots").mkdir()
    (tmp_path / "settings.toml").write_text(SETTINGS)
    config = ServerConfig(
        port=0,
        sampling=SamplingOptions(max_tokens=8, timeout_s=2.0),
        props=True,
        slot_save_path=tmp_path / "slots",
    )
    options = "--checks not_a_server_error --phases examples,coverage,fuzzing,stateful --no-shrink"
    options += f" --max-examples {EXAMPLES} --seed 1 --workers 2 --request-timeout 60"
    options += " --continue-on-failure --suppress-health-check all --warnings off"
    with running(
        lambda: LLM(demo_gguf(), n_ctx=1024, n_threads=1, embeddings=True), config
    ) as live:
        done = subprocess.run(
            [
                command,
                "--config-file",
                "settings.toml",
                "run",
                live.url + "/openapi.json",
                *options.split(),
            ],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
        assert live.get("/health").status_code == 200
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    sent = re.search(r"(\d+) generated", done.stdout)
    assert sent is not None and int(sent[1]) > 1000, done.stdout[-1000:]
