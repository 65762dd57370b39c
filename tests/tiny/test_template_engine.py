"""The embedded chat template through llama.cpp's own template engine, tokenized as one string."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import llama_cpp
import pytest

from codellama.native.model import Model
from codellama.native.settings import WeightSettings
from codellama.params import Message
from codellama.weights.chat_template import turn_template
from tests import golden

pytestmark = pytest.mark.reference
ENGINE = ("lexer", "parser", "runtime", "string", "value")


@pytest.fixture(scope="module")
def render(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that renders a template file with llama.cpp's common/jinja."""
    source = os.environ.get("CODELLAMA_LLAMA_CPP")
    compiler = shutil.which("c++") or shutil.which("g++")
    if not source:
        pytest.skip("CODELLAMA_LLAMA_CPP does not name llama-cpp-python's source")
    if not compiler:
        pytest.skip("there is no C++ compiler")
    root = Path(source) / "vendor" / "llama.cpp"
    library = Path(llama_cpp.__file__).parent / "lib"
    program = tmp_path_factory.mktemp("engine") / "render_template"
    files = [root / "common" / "jinja" / f"{name}.cpp" for name in ENGINE]
    files += [root / "common" / "json.cpp", root / "common" / "unicode.cpp"]
    subprocess.run(
        [
            *(compiler, "-std=c++17", "-O0", "-w"),
            *(f"-I{root / folder}" for folder in ("common", "vendor", "ggml/include")),
            *(str(Path(__file__).parents[1] / "data" / "render_template.cpp"), *map(str, files)),
            *(f"-L{library}", "-lggml-base", f"-Wl,-rpath,{library}", "-o", str(program)),
        ],
        check=True,
    )
    return program


def run(program: Path, template: Path, messages: list[Message]) -> subprocess.CompletedProcess[str]:
    variables = json.dumps({"bos_token": "<s>", "eos_token": "</s>", "messages": messages})
    return subprocess.run(
        [program, template, variables], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("space", [True, False])
def test_one_string_reaches_metas_ids(render: Path, tmp_path: Path, space: bool) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(turn_template(add_space_prefix=space), "utf-8")
    vocabulary = golden.write_code_llama(
        tmp_path / "v.gguf", *golden.slice_pieces(), golden.CONTROL
    )
    hi = [Message(role="user", content="hi")]
    overrides = {"tokenizer.ggml.add_space_prefix": space}
    with Model(vocabulary, WeightSettings(vocab_only=True, overrides=overrides)) as model:
        for messages, ids in ((golden.CARD_DIALOG, golden.CARD_IDS), (hi, golden.HI_IDS)):
            done = run(render, template, messages)
            assert done.returncode == 0, done.stderr
            assert model.tokenizer.encode(done.stdout, parse_special=True) == ids


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([Message(role="assistant", content="x")], "roles must be"),
        ([Message(role="user", content="<step>")], "not allowed"),
        (golden.CARD_DIALOG[:3], "last message"),
    ],
)
def test_the_template_refuses(
    render: Path, tmp_path: Path, messages: list[Message], said: str
) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(turn_template(add_space_prefix=True), "utf-8")
    done = run(render, template, messages)
    assert done.returncode == 1
    assert said in done.stderr
