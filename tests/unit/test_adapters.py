"""LoRA adapters by id and by name, their default scales, and their form on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from codellama.errors import InvalidRequestError
from codellama.params import ModelConfig, SamplingParams
from codellama.protocol.lora import adapters_json, lora_json, parse_lora
from codellama.running.adapters import Adapter, AdapterTable


def table() -> AdapterTable:
    paths = ["one.gguf", "/some/where/two.gguf", "/else/where/one.gguf", "three.gguf"]
    return AdapterTable([Adapter(i, path, 0.5 * i) for i, path in enumerate(paths)])


def test_who_says_nothing_gets_the_defaults() -> None:
    assert table().scales(None) == (0.0, 0.5, 1.0, 1.5)
    assert AdapterTable().scales(None) == ()


def test_those_that_are_not_named_do_not_act() -> None:
    assert table().scales({}) == (0, 0, 0, 0)
    assert table().scales({0: 0.25, "two": 2, "three": -1}) == (0.25, 2, 0, -1)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({4: 1.0}, r"no adapter 4; there are 0 \(one\), 1 \(two\)"),
        ({"four": 1.0}, "no adapter 'four'"),
        ({"one": 1.0}, "'one' is that of the adapters 0 and 2"),
        ({1: 1.0, "two": 1.0}, "adapter 1 is given twice"),
    ],
)
def test_what_no_adapter_is(lora: Any, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        table().scales(lora)
    assert caught.value.param == "lora"


def test_without_adapters_none_can_be_chosen() -> None:
    with pytest.raises(InvalidRequestError, match="loaded without adapters"):
        AdapterTable().scales({0: 1.0})


def test_defaults_are_changed_all_or_none() -> None:
    them = table()
    them.set_defaults({"two": 0.75})
    assert them.scales(None) == (0, 0.75, 0, 0)
    for bad in ({9: 1.0}, {0: "much"}, {0: float("nan")}):
        with pytest.raises(InvalidRequestError):
            them.set_defaults(bad)  # type: ignore[arg-type]
    assert them.scales(None) == (0, 0.75, 0, 0)
    assert [adapter.scale for adapter in them.adapters] == [0, 0.75, 0, 0]


@pytest.mark.parametrize(
    "lora",
    [
        [0],
        "one",
        {0: "1"},
        {0: True},
        {0: float("inf")},
        {0: 1e39},
        {0: 10**400},
        {-1: 1},
        {True: 1},
        {"": 1},
        {1.5: 1},
    ],
)
def test_a_request_maps_adapters_to_numbers(lora: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(lora=lora)
    assert caught.value.param == "lora"


def test_loaded_without_applying() -> None:
    config = ModelConfig(lora=("a.gguf", ("b.gguf", 0.5)))
    assert config.adapters == (("a.gguf", 1.0), ("b.gguf", 0.5))
    off = ModelConfig(lora=("a.gguf", ("b.gguf", 0.5)), lora_init_without_apply=True)
    assert off.adapters == (("a.gguf", 0.0), ("b.gguf", 0.0))


def test_the_wire() -> None:
    raw = [{"id": 0, "scale": 0.5}, {"id": "two", "scale": 1}]
    assert parse_lora(raw) == {0: 0.5, "two": 1}
    assert lora_json(parse_lora(raw)) == raw
    assert lora_json(None) == []
    assert adapters_json(table().adapters)[1] == {
        "id": 1,
        "path": "/some/where/two.gguf",
        "scale": 0.5,
        "task_name": "",
        "prompt_prefix": "",
    }


@pytest.mark.parametrize(
    "raw",
    [
        {"id": 0, "scale": 1},
        [0],
        [{"id": 0}],
        [{"scale": 1}],
        [{"id": 0, "scale": 1, "path": "x"}],
        [{"id": True, "scale": 1}],
        [{"id": 0.0, "scale": 1}],
        [{"id": 0, "scale": 1}, {"id": 0, "scale": 0}],
        None,
    ],
)
def test_another_form_names_lora(raw: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_lora(raw)
    assert caught.value.param == "lora"
