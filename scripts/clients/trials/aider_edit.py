"""aider: a file is edited and the edit committed. A grammar says what a toy of a model is to write."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from clients.trials.checks import run

SETTINGS = r"""
- name: openai/any
  edit_format: whole
  streaming: {stream}
  extra_params:
    max_tokens: 200
    extra_body:
      grammar: 'root ::= "hello.py\n```\nprint(\"hello, world\")\n```\n"'
"""
METADATA = (
    '{"openai/any": {"max_input_tokens": 4096, "litellm_provider": "openai", "mode": "chat"}}'
)
QUIET = (
    *("--yes-always", "--no-check-update", "--no-show-release-notes", "--analytics-disable"),
    *("--no-gitignore", "--no-pretty", "--map-tokens", "0", "--no-show-model-warnings"),
)


def edit(url: str, stream: bool) -> None:
    folder = Path(tempfile.mkdtemp())
    (folder / "hello.py").write_text('print("hi")\n')
    (folder / ".aider.model.settings.yml").write_text(
        SETTINGS.replace("{stream}", str(stream).lower())
    )
    (folder / ".aider.model.metadata.json").write_text(METADATA)
    git("init", "-q", folder=folder)
    git("add", "hello.py", folder=folder)
    git("commit", "-q", "-m", "first", folder=folder)
    aider = Path(sys.executable).with_name("aider")
    asked = ("--model", "openai/any", "--message", "Greet the world.", "hello.py")
    done = subprocess.run(
        [str(aider), *QUIET, *asked],
        cwd=folder,
        env=os.environ | {"OPENAI_API_BASE": f"{url}/v1", "OPENAI_API_KEY": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    text = (folder / "hello.py").read_text()
    assert text == 'print("hello, world")\n', done.stdout[-300:] + done.stderr[-300:]
    assert git("rev-list", "--count", "HEAD", folder=folder) == "2"


def git(*arguments: str, folder: Path) -> str:
    names = ("-c", "user.name=A", "-c", "user.email=a@example.com")
    done = subprocess.run(
        ["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def try_edit(url: str) -> None:
    edit(url, stream=False)


def try_streamed_edit(url: str) -> None:
    edit(url, stream=True)


if __name__ == "__main__":
    run(sys.modules[__name__])
