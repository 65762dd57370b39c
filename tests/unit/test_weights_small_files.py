"""JSON of files that nobody vouches for, and their size; what a fuzzer found is here by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from codellama.errors import CheckpointError
from codellama.files.small_files import MOST_BYTES, parse_json, read_json, shown
from codellama.weights.config import read_config
from codellama.weights.source import open_checkpoint
from tests.checkpoints import INDEX, Checkpoint, config_json, write_checkpoint, write_json

BAD_JSON = {
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "Expecting value"),
    "deep": (b"[" * 65 + b"]" * 65, "nested too deep"),
    "endless": (b"[" * 100_000, "nested too deep"),
    "a name twice": (b'{"x": {"a": 1, "a": 1}}', "'a' appears twice"),
    "NaN": (b"[NaN]", "NaN is no JSON"),
    "Infinity": (b"[-Infinity]", "-Infinity is no JSON"),
    "a huge float": (b"[1e999]", "'1e999' is too large"),
    "a huge number": (b"[" + b"9" * 101 + b"]", "101 digits"),
    "a huge negative number": (b"[-" + b"9" * 5000 + b"]", "5001 digits"),
    "half a pair": (rb'["\ud800"]', "half of a surrogate pair"),
    "half a pair in a name": (rb'{"\udfff": 1}', "half of a surrogate pair"),
    "many values": (b"[" + b"0," * 2**20 + b"0]", "too many values"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_means_different_things_is_refused(name: str, tmp_path: Path) -> None:
    text, reason = BAD_JSON[name]
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(CheckpointError, match="x.json: not valid JSON: "):
        read_json(tmp_path / "x.json")


def test_json_that_is_right_is_read() -> None:
    limit = 1000000000000000019884624838656  # tokenizer_config.json of many models has it
    content = {"a": [1, -2.5, None, True, "▁é😀"], "b": {"c": limit}}
    assert parse_json(json.dumps(content).encode()) == content
    assert parse_json(b"[" * 64 + b"]" * 64)


def test_a_file_is_small_or_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"{}" + b" " * (MOST_BYTES - 2))
    assert read_json(path) == {}
    with path.open("ab") as file:
        file.truncate(2**40)  # a hole: reading it would take a terabyte
    with pytest.raises(CheckpointError, match="1099511627776 bytes are absurdly many"):
        read_json(path)


@pytest.mark.parametrize(
    "name",
    ["config.json", INDEX, "tokenizer.model", "tokenizer.json", "tokenizer_config.json",
     "added_tokens.json", "generation_config.json", "chat_template.jinja", "README.md"],
)  # fmt: skip
def test_every_small_file_of_a_checkpoint_has_a_limit(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    with (folder / name).open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(CheckpointError, match=f"{name}: .* absurdly many"):
        open_checkpoint(folder)


def test_more_templates_than_anybody_has(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "additional_chat_templates").mkdir()
    for number in range(17):
        (folder / "additional_chat_templates" / f"{number}.jinja").touch()
    with pytest.raises(CheckpointError, match="17 templates are too many"):
        open_checkpoint(folder)


CONFIGS: dict[str, tuple[object, str]] = {
    "vocab_size": (2**30, "vocab_size is 1073741824: 262144 is the most"),
    "hidden_size": (2**31, "hidden_size is 2147483648: "),
    "rms_norm_eps": (10**90, "rms_norm_eps must be a positive number"),
    "rope_theta": (1e300, "rope_theta must be a positive number"),
    "num_hidden_layers": (True, "num_hidden_layers must be a positive whole number, not True"),
    "tie_word_embeddings": ("false", "tie_word_embeddings must be true or false"),
    "architectures": ([["x"] * 999], "unknown architecture"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_absurd_numbers_of_a_config_are_refused(tmp_path: Path, name: str) -> None:
    value, reason = CONFIGS[name]
    write_json(tmp_path / "config.json", {**config_json(Checkpoint()), name: value})
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_config(tmp_path / "config.json")
    assert len(str(caught.value)) < 400


def change(name: str, **values: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        write_json(path, {**content, **values})

    damage.__name__ = f"{name} {next(iter(values))}"
    return damage


def bomb(folder: Path) -> None:
    """Nine lines that make a billion when they are written out."""
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (folder / "README.md").write_text("---\n" + "\n".join([*lines, "tags: *a9"]) + "\n---\n")


def brackets(folder: Path) -> None:
    """PyYAML takes time that grows with the square of their number."""
    (folder / "README.md").write_text("---\na: " + "[" * 60_000 + "\n---\n")


@pytest.mark.parametrize("damage", [bomb, brackets])
def test_a_hostile_model_card_is_left_out(
    tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_checkpoint(tmp_path / "m")
    damage(folder)
    assert open_checkpoint(folder).metadata["general.name"].value == "M"
    assert "the model card is left out: its front matter" in caplog.text


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change("tokenizer_config.json", chat_template=[5]), "cannot be understood"),
        (change("tokenizer_config.json", chat_template=[{"name": 5}]), "cannot be understood"),
        (change("generation_config.json", temperature=1e300), "cannot be 1e\\+300"),
        (
            change("tokenizer_config.json", added_tokens_decoder={"9" * 5000: {"content": "x"}}),
            "malformed",
        ),
        (
            change("tokenizer_config.json", added_tokens_decoder={"9": {"content": "x", "special": 1}}),
            "malformed",
        ),
        (change("added_tokens.json", a=294), "tokens 260 and 294 are the same: 'a'"),
        (change("added_tokens.json", **{"a\0b": 294}), "has a NUL in it"),
        (change("added_tokens.json", **{"[EMPTY_7]": 294}), "llama.cpp gives to an empty one"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_what_a_fuzzer_found_in_small_files(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    (folder / "added_tokens.json").write_text('{"<end>": 294}')
    open_checkpoint(folder).close()
    damage(folder)
    if "added_tokens.json" in damage.__name__:
        text = (folder / "added_tokens.json").read_text().replace('"<end>": 294,', "")
        (folder / "added_tokens.json").write_text(text)
    with pytest.raises(CheckpointError, match=reason) as caught:
        open_checkpoint(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_named_templates_come_in_the_same_order_each_time(tmp_path: Path) -> None:
    names = [f"t{number}" for number in range(20)]
    folder = write_checkpoint(tmp_path / "m", Checkpoint(added={"<end>": 294}))
    templates = [{"name": name, "template": "x"} for name in names]
    change("tokenizer_config.json", chat_template=templates)(folder)
    with open_checkpoint(folder) as source:
        assert source.metadata["tokenizer.chat_templates"].value == sorted(names)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a\n\x1b[2J", r"'a\n\x1b[2J'"), ("x" * 999, "'" + "x" * 80 + "'..."), (5, "5"), (None, "None")],
)  # fmt: skip
def test_values_are_shown_in_one_line(value: object, text: str) -> None:
    assert shown(value) == text
