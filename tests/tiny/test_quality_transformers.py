"""Likelihoods of answers beside transformers, on the demo checkpoint in F32."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from codellama.devices.machine import this_machine
from codellama.devices.planner import plan_load
from codellama.files.loadable import read_model
from codellama.llm import LLM
from codellama.params import ModelConfig
from codellama.quality.choices import ChoiceScorer, Question
from codellama.weights.convert import convert
from tests.live_server import Live, running

CHECKPOINT = Path(__file__).parents[2] / "models" / "demo"
EXACT: dict[str, Any] = {"n_threads": 1, "type_k": "f32", "type_v": "f32", "flash_attn": "off"}
SHOTS = "def double(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n\n\n"
ASKED = [
    (SHOTS + "def add(a, b):\n    return", (" a + b", " a - b", " None\n")),
    (SHOTS + "def square(x):\n    return", (" x * x", " x ** 2")),
    ("import", (" os",)),
]


@pytest.mark.reference
def test_likelihoods_are_those_of_transformers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip(
        "transformers", reason="no transformers that fits this environment", exc_type=ImportError
    )
    path = tmp_path / "demo.F32.gguf"
    convert(CHECKPOINT, path, "F32")
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        CHECKPOINT, dtype=torch.float32, attn_implementation="eager"
    )
    plan = plan_load(read_model(path), ModelConfig.of(**EXACT, n_seq_max=1), this_machine())
    with ExitStack() as undo:
        scorer = ChoiceScorer(plan.model, 512, undo)
        encode = scorer.tokenizer.encode
        questions = [
            Question(tuple(encode(context, add_bos=True)), tuple(tuple(encode(a)) for a in answers))
            for context, answers in ASKED
        ]
        found = scorer.score(questions)
    with running(lambda: LLM(path, n_ctx=512, n_seq_max=2, **EXACT)) as live:
        served = [
            [echoed(live, context, answer) for answer in answers] for context, answers in ASKED
        ]
    for question, likelihoods, of_server in zip(questions, found, served, strict=True):
        for answer, (value, _), other in zip(question.answers, likelihoods, of_server, strict=True):
            tokens = torch.tensor([[*question.context, *answer]])
            with torch.no_grad():
                logs = reference(tokens).logits[0].double().log_softmax(-1)
            rows = range(len(question.context) - 1, tokens.shape[1] - 1)
            expected = sum(float(logs[r, t]) for r, t in zip(rows, answer, strict=True))
            assert value == pytest.approx(expected, abs=1e-4)
            assert other == pytest.approx(expected, abs=1e-4)


def echoed(live: Live, context: str, answer: str) -> float:
    """The likelihood of an answer as clients add it up, lm-eval's `gguf` among them: from the echoed prompt's
    tokens that begin behind the context, without the one that follows."""
    asked: dict[str, Any] = {
        "prompt": context + answer,
        "echo": True,
        "logprobs": 1,
        "max_tokens": 1,
    }
    found = live.post("/v1/completions", **asked).json()["choices"][0]["logprobs"]
    first = next(i for i, at in enumerate(found["text_offset"]) if at >= len(context))
    return float(sum(found["token_logprobs"][first:-1]))
