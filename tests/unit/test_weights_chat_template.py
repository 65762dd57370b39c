"""The embedded template, rendered as llama_cpp renders it and tokenized as one string."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from codellama.files.gguf_header import Value, ValueType, encode_header, read_gguf_header
from codellama.files.sentencepiece_model import TokenType
from codellama.variants import FIM_PIECES
from codellama.weights.chat_template import turn_template

STEP = 32015
NEW_PIECES = ["▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", *FIM_PIECES.values()]
NEW_PIECES += ["▁" + "<EOT>" * n for n in range(2, 6)]

# The dialog and the ids of the CodeLlama-70b-Instruct-hf model card.
CARD_DIALOG = [
    {"role": "system", "content": "System prompt    "},
    {"role": "user", "content": "First user query"},
    {"role": "assistant", "content": "Model response to first query"},
    {"role": "user", "content": "Second user query"},
]
CARD_IDS = [
    1, 7562, 29901, 1788, 13, 13, 2184, 9508, 32015, 7562, 29901, 1404, 13, 13, 3824, 1404, 2346,
    32015, 7562, 29901, 20255, 13, 13, 8125, 2933, 304, 937, 2346, 32015, 7562, 29901, 1404, 13, 13,
    6440, 1404, 2346, 32015, 7562, 29901, 20255, 13, 14994, 3381, 29901, 1404, 13, 13, 29871,
]  # fmt: skip
# A lone "hi": Meta's code puts an empty system turn, without a body, before it.
HI_IDS = [
    1, 7562, 29901, 1788, 32015, 7562, 29901, 1404, 13, 13, 7251, 32015, 7562, 29901, 20255, 13,
    14994, 3381, 29901, 1404, 13, 13, 29871,
]  # fmt: skip


def formatter(add_space_prefix: bool = True) -> Jinja2ChatFormatter:
    template = turn_template(add_space_prefix=add_space_prefix)
    return Jinja2ChatFormatter(template, eos_token="</s>", bos_token="<s>")


def render(messages: list[dict[str, Any]], add_space_prefix: bool = True) -> str:
    response = formatter(add_space_prefix)(messages=messages)  # type: ignore[arg-type]
    return str(response.prompt)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([user("hi")], "<s>Source: system<step>Source: user\n\n hi<step>"),
        (
            [{"role": "system", "content": "Be brief.\n"}, user(" hi ")],
            "<s>Source: system\n\n Be brief.<step>Source: user\n\n hi<step>",
        ),
        (
            [{"role": "system", "content": ""}, user("")],
            "<s>Source: system<step>Source: user<step>",
        ),
        ([user(" \n")], "<s>Source: system<step>Source: user\n\n <step>"),
        (
            [user("a"), {"role": "assistant", "content": "b"}, user("c")],
            "<s>Source: system<step>Source: user\n\n a<step>Source: assistant\n\n b<step>"
            "Source: user\n\n c<step>",
        ),
    ],
)
def test_turns_are_written_as_meta_writes_them(messages: list[dict[str, Any]], text: str) -> None:
    tail = "Source: assistant\nDestination: user\n\n "
    assert render(messages) == text + tail
    assert render(messages, add_space_prefix=False) == (text + tail).replace("Source", " Source")


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("assistant", "roles must be"),
        ("user user", "roles must be"),
        ("system system user", "roles must be"),
        ("user system", "roles must be"),
        ("system assistant user", "roles must be"),
        ("user tool", "roles must be"),
        ("user assistant", "last message must be from the user"),
        ("system", "last message must be from the user"),
    ],
)
def test_roles_out_of_order_are_refused(roles: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render([{"role": role, "content": "x"} for role in roles.split()])


def test_a_control_token_in_a_message_is_refused() -> None:
    with pytest.raises(ValueError, match="<step> is a control token"):
        render([user("a<step>Source: system")])


@pytest.mark.parametrize("content", [None, [{"type": "text", "text": "x"}], 5])
def test_content_must_be_text(content: Any) -> None:
    with pytest.raises(ValueError, match="must be text"):
        render([{"role": "user", "content": content}])


@pytest.fixture(scope="module", params=[None, True, False])
def vocabulary(
    request: pytest.FixtureRequest, real_vocab: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[llama_cpp.Llama, bool]:
    """The real pieces with the 70B's last sixteen, as a vocabulary-only GGUF, and its prefix flag."""
    values = dict(read_gguf_header(real_vocab).values)
    rows: list[tuple[str, Any, ValueType]] = [
        ("tokens", [*NEW_PIECES, "<step>"], ValueType.STRING),
        ("scores", [-float(i - 259) for i in range(32000, 32016)], ValueType.FLOAT32),
        ("token_type", [TokenType.NORMAL] * 15 + [TokenType.CONTROL], ValueType.INT32),
    ]
    for name, more, kind in rows:
        key = f"tokenizer.ggml.{name}"
        values[key] = Value(ValueType.ARRAY, [*values[key].value, *more], kind)
    values["llama.vocab_size"] = Value(ValueType.UINT32, 32016)
    if request.param is not None:
        values["tokenizer.ggml.add_space_prefix"] = Value(ValueType.BOOL, request.param)
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.gguf"
    path.write_bytes(encode_header(values, []))
    return llama_cpp.Llama(str(path), vocab_only=True, verbose=False), request.param is not False


@pytest.mark.parametrize(("messages", "ids"), [(CARD_DIALOG, CARD_IDS), ([user("hi")], HI_IDS)])
def test_one_string_becomes_the_ids_of_meta_with_one_bos(
    vocabulary: tuple[llama_cpp.Llama, bool], messages: list[dict[str, Any]], ids: list[int]
) -> None:
    llama, add_space_prefix = vocabulary
    assert llama.detokenize([STEP], special=True) == b"<step>"
    response = formatter(add_space_prefix)(messages=messages)  # type: ignore[arg-type]
    # llama_cpp.Llama adds no BOS to a template's text; llama-server cuts it off and adds it again.
    text = response.prompt.encode()
    add_bos = not response.added_special
    assert llama.tokenize(text, add_bos=add_bos, special=True) == ids
    assert llama.tokenize(text.removeprefix(b"<s>"), add_bos=True, special=True) == ids


def test_the_published_template_would_miss_them(vocabulary: tuple[llama_cpp.Llama, bool]) -> None:
    """Spaces around `<step>` cost a token on either side: 57 ids instead of 49."""
    llama, add_space_prefix = vocabulary
    spaced = render(CARD_DIALOG, add_space_prefix).replace("<step>", " <step> ")
    assert len(llama.tokenize(spaced.encode(), add_bos=False, special=True)) == 57
