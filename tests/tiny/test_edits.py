"""The grammar of edits on a real (tiny) model, which knows nothing: what it answers is its form alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from codellama.cli import main
from codellama.edits.files import lines_of
from codellama.edits.form import EditForm
from codellama.llm import LLM

ODD = (
    'x = {"a": [(1, 2)] * 3}  # ~ "multipleOf" {99999999}\n'
    "y = 'back\\\\slash \\n'\n"
    "\n"
    "((((((((((((((((((((\n"
    'é = """<>"""\t# ü\n'
    "======= and >>>>>>>\n"
)


@pytest.mark.parametrize("seed", range(4))
def test_lines_to_be_replaced_are_always_lines_of_a_file(tiny_llm: LLM, seed: int) -> None:
    texts = {"a.py": ODD, "b.txt": "".join(f"line {i}\n" for i in range(40))}
    form = EditForm.of(texts)
    text = tiny_llm.complete("x", lark=form.grammar(), max_tokens=300, seed=seed).text()
    head, *rest = lines_of(text)
    names = {f"{'<' * form.width} {name}\n": name for name in texts}
    lines = lines_of(texts[names[head]])
    search = []
    for line in rest:
        if line == "=" * form.width + "\n" or not line.endswith("\n"):
            break
        search.append(line)
    starts = range(len(lines) - len(search) + 1)
    assert any(lines[i : i + len(search)] == search for i in starts), search


@pytest.mark.parametrize("seed", range(2))
def test_a_file_written_anew_stands_between_fences(tiny_llm: LLM, seed: int) -> None:
    form = EditForm.of({"a.py": "x = 1\n"})
    grammar = form.grammar("python")
    text = tiny_llm.complete("x", lark=grammar, max_tokens=80, seed=seed).text()
    assert text.count("```") <= 2


def test_a_completion_in_place_is_what_infilling_gives(
    tiny_gguf: Path, tiny_llm: LLM, tmp_path: Path
) -> None:
    path = tmp_path / "x.py"
    path.write_text("a = 1\nb = 2\n")
    options = ("--temp", "0", "-n", "6", "--yes")
    words = ["complete", str(tiny_gguf), "--in-place", f"{path}:1:5", *options]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    middle = tiny_llm.infill("a = ", "1\nb = 2\n", temperature=0, max_tokens=6).text()
    assert path.read_text() == f"a = {middle}1\nb = 2\n"
    assert (tmp_path / "x.py.bak").read_text() == "a = 1\nb = 2\n"
