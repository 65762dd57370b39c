"""llm on the command line, with its plugins for llama-server, Ollama and Anthropic.

llm-llama-server asks port 8080 and no other, so this trial has to be told that URL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from clients.trials.checks import QUESTION, run, said

MODELS = """\
- model_id: here
  model_name: any
  api_base: {url}/v1
  supports_schema: true
  supports_tools: true
- model_id: here-text
  model_name: any
  api_base: {url}/v1
  completion: true
"""
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"type": "string", "enum": ["cat", "dog"]}, "old": {"type": "boolean"}},
    "required": ["kind", "old"],
    "additionalProperties": False,
}
HOME = Path(tempfile.mkdtemp())
SHORT = ("-o", "max_tokens", "24")


def llm(url: str, *arguments: str) -> str:
    (HOME / "extra-openai-models.yaml").write_text(MODELS.format(url=url))
    keys = dict.fromkeys(("OPENAI_API_KEY", "ANTHROPIC_API_KEY"), "none")
    places = {"LLM_USER_PATH": str(HOME), "OLLAMA_HOST": url, "ANTHROPIC_BASE_URL": url}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("llm")), *arguments],
        env=os.environ | keys | places,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def try_chat(url: str) -> None:
    assert said(llm(url, "-m", "here", QUESTION, *SHORT))
    assert said(llm(url, "-c", "and then?", *SHORT))
    assert said(llm(url, "-m", "here", "--no-stream", QUESTION, *SHORT))
    assert said(llm(url, "-m", "here-text", "def add(a, b):", *SHORT))


def try_schema(url: str) -> None:
    for model in ("here", "claude-haiku-4.5"):
        made = json.loads(llm(url, "-m", model, "--schema", json.dumps(SCHEMA), "hi"))
        assert made["kind"] in ("cat", "dog"), model


def try_tools(url: str) -> None:
    assert said(llm(url, "-m", "here", "-T", "llm_version", "hi", "-o", "max_tokens", "60"))


def try_plugin_for_llama_server(url: str) -> None:
    assert said(llm(url, "-m", "llama-server", QUESTION, *SHORT))
    assert said(llm(url, "-m", "llama-server-tools", "-T", "llm_version", QUESTION, *SHORT))


def try_plugin_for_ollama(url: str) -> None:
    name = llm(url, "models", "list", "-q", "Ollama: ").split()[1]
    assert said(llm(url, "-m", name, QUESTION, "-o", "num_predict", "24"))


def try_plugin_for_anthropic(url: str) -> None:
    assert said(llm(url, "-m", "claude-haiku-4.5", QUESTION, *SHORT))


if __name__ == "__main__":
    run(sys.modules[__name__])
