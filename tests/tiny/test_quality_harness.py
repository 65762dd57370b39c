"""lm-evaluation-harness with a model of ours in its process, on small data in the tasks' own formats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.llm import LLM
from codellama.quality.tasks import TASKS, _load, run_tasks, task_names
from tests.live_server import running

lm_eval = pytest.importorskip("lm_eval", reason="needs the extra lm-eval")

EXACT: dict[str, Any] = {"n_threads": 1, "type_k": "f32", "type_v": "f32", "flash_attn": "off"}
PAIRS = [
    ("Question: what is 1 + 1?\nAnswer:", " 2"),
    ("Question: what is 1 + 1?\nAnswer:", " two, of course"),
    ("Question: what is 1 + 2?\nAnswer:", " 3"),
    ("ends with a space ", "so it moves"),
    ("", "nothing before it"),
    ("x" * 700, "é∂"),
]


@pytest.fixture(scope="module")
def model(tiny_gguf: Path) -> Iterator[Any]:
    from codellama.quality.harness import HarnessModel

    made = HarnessModel(str(tiny_gguf), batch_size=1, device="cpu", **EXACT)
    yield made
    made.close()


def requests(kind: str, arguments: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, pair, i) for i, pair in enumerate(arguments)]


def test_likelihoods_are_those_that_the_server_gives(model: Any, tiny_gguf: Path) -> None:
    found = model.loglikelihood(requests("loglikelihood", PAIRS), disable_tqdm=True)
    with LLM(tiny_gguf, n_seq_max=1, **EXACT) as llm:
        for (context, answer), (value, greedy) in zip(PAIRS, found, strict=True):
            n = len(llm.tokenizer.encode(context.rstrip(" "), add_bos=True))
            scored = llm.complete(context + answer, echo=True, logprobs=1, max_tokens=0).result()
            entries = scored.choices[0].logprobs[n:]
            assert value == pytest.approx(sum(e.logprob for e in entries), abs=1e-4)
            assert greedy == all(e.top[0][0] == e.token for e in entries)


def test_the_harness_finds_the_same_through_the_server(model: Any, tiny_gguf: Path) -> None:
    """With F32 and plain attention, where nothing rounds by how many rows are decoded.

    Its `gguf` model leaves a space at a context's end to the context; all others give it to the answer.
    """
    from lm_eval.models.gguf import GGUFLM

    pairs = [
        pair for pair in PAIRS if pair[0] and pair[0] == pair[0].rstrip()
    ]  # it needs a context
    asked = requests("loglikelihood", pairs)
    found = model.loglikelihood(asked, disable_tqdm=True)
    with running(lambda: LLM(tiny_gguf, n_seq_max=2, **EXACT)) as live:
        others = GGUFLM(base_url=live.url).loglikelihood(asked, disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in others], abs=1e-4)


def test_the_harnesss_own_models_stay_beside_ours() -> None:
    """In a process of its own: what has been imported here may have registered them."""
    code = (
        "import codellama.quality.harness\n"
        "from lm_eval.api.registry import get_model\n"
        "print(get_model('codellama').__module__, get_model('dummy').__module__)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert run.stdout.split() == ["codellama.quality.harness", "lm_eval.models.dummy"], run.stderr


def test_a_whole_text_is_scored_in_windows(model: Any, tiny_gguf: Path) -> None:
    text = "def add(a, b): return a + b"
    (value,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]))
    with LLM(tiny_gguf, n_seq_max=1, **EXACT) as llm:
        scored = llm.complete(text, echo=True, logprobs=0, max_tokens=0).result()
    assert value == pytest.approx(sum(e.logprob for e in scored.choices[0].logprobs[1:]), abs=1e-4)
    long = model.loglikelihood_rolling(requests("loglikelihood_rolling", [("ab " * 900,)]))
    assert long[0] < 0


def test_answers_are_written_up_to_a_stop(model: Any, tiny_gguf: Path) -> None:
    told = {"until": ["zzz"], "max_gen_toks": 12, "do_sample": False}
    found = model.generate_until(requests("generate_until", [("def ", told), ("class ", told)]))
    with LLM(tiny_gguf, n_seq_max=8, **EXACT) as llm:
        for prompt, text in zip(("def ", "class "), found, strict=True):
            assert text == llm.complete(prompt, max_tokens=12, temperature=0).text()
    first = found[0][3]
    (cut,) = model.generate_until(requests("generate_until", [("def ", {**told, "until": first})]))
    assert cut == found[0].partition(first)[0]


def test_a_question_without_an_answer_is_refused(model: Any) -> None:
    with pytest.raises(InvalidRequestError, match="from 1 to 1023"):
        model._loglikelihood_tokens([(("a", ""), [1, 300], [])])


# -- tasks ----------------------------------------------------------------------------------------


@pytest.fixture
def local_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HellaSwag's, ARC's and GSM8K's own YAML files, on two questions each."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data: dict[str, list[dict[str, Any]]] = {
        "hellaswag": [
            {
                "ind": i, "activity_label": "Coding", "ctx_a": "A person writes.", "ctx_b": "they",
                "ctx": "A person writes. they", "endings": ["run.", "eat it.", "sing.", "swim."],
                "label": str(i),
            }
            for i in range(2)
        ],
        "arc_challenge": [
            {
                "id": str(i), "question": "What loops?", "answerKey": "AB"[i],
                "choices": {"text": ["for", "if"], "label": ["A", "B"]},
            }
            for i in range(2)
        ],
        "gsm8k": [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"} for _ in range(2)],
    }  # fmt: skip
    folders = {"hellaswag": "hellaswag/hellaswag", "arc_challenge": "arc/arc_challenge"}
    for name, rows in data.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        theirs = (
            Path(lm_eval.__file__).parent / "tasks" / f"{folders.get(name, 'gsm8k/gsm8k')}.yaml"
        )
        files = {split: str(path) for split in ("train", "validation", "test")}
        (tmp_path / f"{name}.yaml").write_text(
            f"include: {theirs}\ntask: local_{name}\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs: {json.dumps({'data_files': files})}\n",
            "utf-8",
        )
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # the harness's and its libraries' own
def test_tasks_in_their_own_formats_are_run(tiny_gguf: Path, local_tasks: Path) -> None:
    names = ["local_hellaswag", "local_arc_challenge", "local_gsm8k"]
    found = list(run_tasks(tiny_gguf, names, shots=1, include=local_tasks, **EXACT))
    assert [result.task for result in found] == names
    assert [result.n for result in found] == [2, 2, 2]
    assert all(0 <= result.value <= 1 for result in found)
    assert {"acc,none", "acc_norm,none"} <= set(found[0].numbers)


def test_the_leaderboards_name_stands_for_its_six_tasks() -> None:
    assert task_names(["leaderboard"]) == list(TASKS)
    assert {name: task.shots for name, task in TASKS.items()} == {
        "arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0, "winogrande": 5,
        "gsm8k": 5,
    }  # fmt: skip
    assert task_names(["x", "hellaswag", "leaderboard", "x"])[:2] == ["x", "hellaswag"]


@pytest.mark.filterwarnings("ignore")
def test_an_unknown_task_is_named(tiny_gguf: Path) -> None:
    with pytest.raises(InvalidRequestError, match="knows no task 'no_such_task'") as error:
        list(run_tasks(tiny_gguf, ["no_such_task"]))
    assert error.value.param == "tasks"


def test_all_data_that_cannot_be_had_are_named_before_anything_is_run() -> None:
    class Manager:
        def load(self, names: list[str]) -> dict[str, Any]:
            if names == ["here"]:
                return {"tasks": {}}
            raise OSError(f"no {names[0]}\nmore of it")

    with pytest.raises(UnsupportedError) as error:
        _load(Manager(), ["here", *TASKS])
    told = str(error.value)
    assert "(no arc_challenge)" in told and "here," not in told and "\n" not in told
    for task in TASKS.values():
        assert f"hf download --repo-type dataset {task.data}" in told
    assert list(_load(Manager(), ["here"])) == ["here"]


def test_data_that_cannot_be_had_are_named_in_one_line(tiny_gguf: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "codellama", "quality", "tasks", str(tiny_gguf)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run(
        [*command, "--tasks", "hellaswag"],
        capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **offline},
    )  # fmt: skip
    assert run.returncode == 1
    assert "hf download --repo-type dataset Rowan/hellaswag" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
