"""Prompts as text, for llama-index and guidance: read by `Llama`, they are the ids of the chat."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llama_cpp
import pytest

from codellama import ChatFormatError, Llama
from codellama.integrations.llama_index import Prompting, completion_to_prompt, messages_to_prompt
from codellama.integrations.text_formats import (
    FormatName,
    dialog_text,
    no_system_turn,
    turn_heads,
)
from tests import tiny_model

Dialog = list[dict[str, str]]
DIALOGS: list[Dialog] = [
    [{"role": "user", "content": "hi"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " a\n b "}],
    [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ],
]


@pytest.fixture(scope="module", params=["turn", "inst"])
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Llama, FormatName]]:
    """A model of each format; that of 7B puts a space before a text."""
    path = tiny_model.write(tmp_path_factory.mktemp("m") / "m.gguf", step=request.param == "turn")
    llama = Llama(str(path), n_ctx=0, n_threads=1, chat_format=request.param)
    yield llama, request.param
    llama.close()


@pytest.mark.parametrize("dialog", DIALOGS)
def test_the_text_of_a_dialog_is_its_ids(model: tuple[Llama, FormatName], dialog: Any) -> None:
    llama, name = model
    text = dialog_text(dialog, name)
    read = llama.llm.complete_prompt(llama.llm.with_control_tokens(text)).tokens
    assert read == llama.llm.chat_prompt(dialog).tokens


def test_plain_llama_cpp_reads_it_too(tiny_gguf: Path, tiny_llm: Any) -> None:
    plain = llama_cpp.Llama(
        str(tiny_gguf), n_threads=1, verbose=False,
        kv_overrides={"tokenizer.ggml.add_space_prefix": False},  # as this project's files say
    )  # fmt: skip
    for dialog in DIALOGS:
        wanted = tiny_llm.chat_prompt(dialog).tokens
        text = dialog_text(dialog)  # type: ignore[arg-type]
        assert tuple(plain.tokenize(text.encode(), add_bos=True, special=True)) == wanted
    plain.close()


class Role(str, Enum):
    """llama-index's roles."""

    USER = "user"
    SYSTEM = "system"


def test_llama_index_s_functions() -> None:
    asked = SimpleNamespace(role=Role.USER, content="hi")
    told = SimpleNamespace(role=Role.SYSTEM, content="Be brief.")
    plain = dialog_text([{"role": "user", "content": "hi"}])
    brief = dialog_text(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    )
    assert messages_to_prompt([asked]) == completion_to_prompt("hi") == plain
    assert messages_to_prompt([told, asked]) == brief
    prompting = Prompting(system_prompt="Be brief.")
    assert prompting.messages_to_prompt([asked]) == prompting.completion_to_prompt("hi") == brief
    assert prompting.messages_to_prompt([told, asked]) == brief
    assert Prompting("inst").completion_to_prompt("hi") == "[INST] hi [/INST]"


@pytest.mark.parametrize("tag", ["<step>", "</s>", "<s>", "<PRE>"])
def test_a_typed_control_token_is_refused(tag: str) -> None:
    with pytest.raises(ChatFormatError, match=tag):
        completion_to_prompt(f"what is {tag}?")


def test_tags_of_the_other_format_are_text() -> None:
    assert "[INST]" in completion_to_prompt("what is [INST]?")
    with pytest.raises(ChatFormatError, match="INST"):
        Prompting("inst").completion_to_prompt("what is [INST]?")


def test_role_by_role_it_is_the_same_text() -> None:
    heads = turn_heads()
    text = heads["system"] + "S<step>" + heads["user"] + "U<step>" + heads["assistant"]
    assert no_system_turn() + text.partition("<step>")[2] == completion_to_prompt("U")
    assert text == dialog_text(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    )


def test_guidance_s_template() -> None:
    pytest.importorskip("guidance", reason="guidance is not installed")
    from codellama.integrations.guidance import CodeLlama70BInstructTemplate

    template = CodeLlama70BInstructTemplate()
    assert template.get_role_start("user") == turn_heads()["user"]
    assert template.get_role_end("user") == "<step>"
    with pytest.raises(Exception, match="tool"):
        template.get_role_start("tool")


def test_the_outlines_model(tiny_llm: Any) -> None:
    outlines = pytest.importorskip("outlines", reason="outlines is not installed")
    from codellama.integrations.outlines import OutlinesModel

    model = OutlinesModel(tiny_llm, chat_mode=False)
    answer = model("x", outlines.types.regex("[ab]{3}"), seed=1)
    assert len(answer) == 3
    assert set(answer) <= set("ab")
    assert "".join(model.stream("x", outlines.types.regex("[ab]{3}"), seed=1)) == answer
