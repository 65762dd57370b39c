from __future__ import annotations

import ast
import os

from bench.cases import CASES, FULL, QUICK, SERVING
from bench.texts import SAMPLE_WORDS, Texts, edit


def test_a_prompt_is_a_function_of_seed_and_key() -> None:
    assert Texts(1).prompt(50, 0, "decode") == Texts(1).prompt(50, 0, "decode")
    others = [Texts(2).prompt(50, 0, "decode")]
    others += [
        Texts(1).prompt(50, *key) for key in ((1, "decode"), (0, "prompt"), (0, "decode", 1))
    ]
    for other in others:
        assert len(os.path.commonprefix([Texts(1).prompt(50, 0, "decode"), other])) < 5


def test_a_calibrated_prompt_has_about_the_tokens_asked_for() -> None:
    texts = Texts(0).calibrated(2 * SAMPLE_WORDS)  # a word is two tokens
    assert len(texts.prompt(1000, "key").split()) == 500
    assert len(texts.sample().split()) == SAMPLE_WORDS


def test_edits_ask_for_a_renamed_function() -> None:
    prompts = [edit(i, run) for i in range(6) for run in range(7)]
    assert len(set(prompts)) > 30
    for prompt in prompts:
        code = prompt.split("```python\n")[1].removesuffix("```")
        assert isinstance(ast.parse(code).body[0], ast.FunctionDef)
    assert edit(1, 2) == edit(1, 2)


def test_titles_tell_the_sizes() -> None:
    def title(key: str, quick: bool) -> str:
        metrics = {m.key: m for case in CASES.values() for m in case.metrics}
        return metrics[key].titled(QUICK if quick else FULL).title

    assert title("sharing_first", False) == "16 sharing 1000: first token, median"
    assert title("clients_whole", True) == "3 clients, whole answers"
    assert set(SERVING) < set(CASES)
