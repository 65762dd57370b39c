"""lm-evaluation-harness: multiple choice and generation, of text and of chats, on three questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from clients.trials.checks import run

QUESTIONS = [
    {"question": start, "choices": [" ?? zebra", end], "answer": 1}
    for start, end in (
        ("def add(a, b):\n    return a +", " b"),
        ("for i in", " range(10):"),
        ("import", " os"),
    )
]
DATA = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
CHOICES = """
task: choices
output_type: multiple_choice
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""
WRITING = """
task: writing
output_type: generate_until
doc_to_target: " 1"
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 8
metric_list:
  - metric: exact_match
"""


def evaluate(url: str, model: str, task: str, *more: str) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp())
    data = folder / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, QUESTIONS)))
    for text in (CHOICES, WRITING):
        name = text.split()[1]
        (folder / f"{name}.yaml").write_text((text + DATA).format(file=data))
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("lm_eval")), "run", "--model", model),
            *("--model_args", f"model=any,base_url={url}", "--tasks", task),
            *("--include_path", str(folder), "--output_path", str(folder / "out"), *more),
        ],
        env=os.environ | {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = list((folder / "out").rglob("results*.json"))
    assert found, done.stderr[-300:]
    results = json.loads(found[0].read_text())["results"][task]
    return {name.split(",")[0]: value for name, value in results.items()}


def try_multiple_choice(url: str) -> None:
    found = evaluate(f"{url}/v1/completions", "local-completions", "choices")
    assert found["acc"] == 1, found


def try_generation(url: str) -> None:
    found = evaluate(f"{url}/v1/completions", "local-completions", "writing")
    assert 0 <= found["exact_match"] <= 1, found


def try_chats(url: str) -> None:
    found = evaluate(
        f"{url}/v1/chat/completions", "local-chat-completions", "writing", "--apply_chat_template"
    )
    assert 0 <= found["exact_match"] <= 1, found


def try_gguf(url: str) -> None:
    found = evaluate(url, "gguf", "choices")
    assert found["acc"] == 1, found


if __name__ == "__main__":
    run(sys.modules[__name__])
