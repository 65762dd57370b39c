"""Options are checked when they are given, and an unknown name is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codellama.errors import InvalidRequestError
from codellama.params import ModelConfig, SamplingParams, seed_of_choice
from codellama.settings import settings_of


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"top_k": -2}, "top_k"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": -1}, "min_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"mirostat": 3}, "mirostat"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"logprobs": 101}, "logprobs"),
        ({"stop": [""]}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stop_tokens": [-1]}, "stop_tokens"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {1: float("inf")}}, "logit_bias"),
        *(({name: 5}, name) for name in ("stop", "stop_tokens", "samplers", "logit_bias")),
        ({"dry_sequence_breakers": 5}, "dry_sequence_breakers"),
        ({"logit_bias": [[1, 2.0]]}, "logit_bias"),
        ({"grammar": "root ::= x", "json_schema": {}}, "grammar"),
        ({"temprature": 1}, "temprature"),
    ],
)
def test_bad_sampling(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError, match=param) as caught:
        SamplingParams.of(**options)
    assert caught.value.param == param


TEXTS = [s.name for s in settings_of(SamplingParams) if s.kind is str or "str" in str(s.kind)]


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("lora", "samplers")])
def test_half_a_character_in_a_text_is_named(name: str) -> None:
    """Python and JSON can write it, UTF-8 cannot."""
    value: Any = "a\ud800"
    for given in (value, ("x", value)) if name in ("stop", "dry_sequence_breakers") else (value,):
        if name == "dry_sequence_breakers" and isinstance(given, str):
            continue
        with pytest.raises(InvalidRequestError, match="half of a surrogate pair") as caught:
            SamplingParams.of(**{name: given})
        assert caught.value.param == name


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(InvalidRequestError, match="did you mean temperature"):
        SamplingParams.of(temprature=1)
    with pytest.raises(InvalidRequestError, match="did you mean n_gpu_layers"):
        ModelConfig.of(n_gpu_layer=1)


def test_good_sampling() -> None:
    params = SamplingParams.of(stop="x", logit_bias={3: float("-inf")}, seed=0, max_tokens=None)
    assert params.stop == ("x",)
    assert params.seed == 0
    assert SamplingParams().temperature == 0.2


def test_a_batch_smaller_than_the_micro_batch_is_both_as_in_llama_cpp() -> None:
    assert ModelConfig(n_batch=32).n_ubatch == 32
    assert ModelConfig(n_batch=1024).n_ubatch == 512


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n_ctx": 0}, "n_ctx"),
        ({"n_seq_max": 257}, "n_seq_max"),
        ({"n_gpu_layers": "some"}, "n_gpu_layers"),
        ({"n_gpu_layers": -1}, "n_gpu_layers"),
        ({"n_gpu_layers": 1.0}, "n_gpu_layers"),
        ({"type_k": 8}, "type_k"),
        ({"type_v": "q8_0", "flash_attn": "off"}, "type_v"),
        ({"split_mode": "tensor"}, "split_mode"),
        ({"n_seq_max": 64, "n_batch": 32, "n_ubatch": 32}, "n_batch"),
        ({"chat_format": "chatml"}, "chat_format"),
    ],
)
def test_bad_config(options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError, match=param) as caught:
        ModelConfig.of(**options)
    assert caught.value.param == param


def test_good_config() -> None:
    assert ModelConfig.of(n_gpu_layers="all", tensor_split=[1, 2]).tensor_split == (1, 2)
    assert ModelConfig(n_threads=3).n_threads == 3
    assert (ModelConfig().n_threads, ModelConfig().n_threads_batch) == ("auto", None)
    assert ModelConfig(n_threads_batch="auto").n_threads_batch == "auto"


@pytest.mark.parametrize(
    ("seed", "index", "drawn"),
    [
        (0, 0, 0),
        (5, 3, 8),
        (2**32 - 2, 0, 2**32 - 2),
        (2**32 - 2, 1, 0),  # 2**32 - 1 would be "random" in llama.cpp
        (2**32 - 2, 2, 1),
        (2**32 + 5, 0, 5),  # the lower 32 bits, as in llama-server
        (2**64 - 1, 0, 0),
        (-2, 0, 2**32 - 2),
    ],
)
def test_every_choice_has_a_seed_of_32_bits(seed: int, index: int, drawn: int) -> None:
    assert seed_of_choice(seed, index) == drawn
    assert SamplingParams(seed=seed).of_choice(index).seed == drawn
    assert SamplingParams().of_choice(index).seed is None


def test_the_largest_seed_is_named_to_the_last_digit() -> None:
    with pytest.raises(
        InvalidRequestError, match="to 18446744073709551615; got 18446744073709551616"
    ):
        SamplingParams(seed=2**64)


def test_one_adapter_needs_no_list() -> None:
    assert ModelConfig(lora="a.gguf").lora == ModelConfig(lora=("a.gguf",)).lora  # type: ignore[arg-type]
    assert ModelConfig(lora=Path("a.gguf")).adapters == (("a.gguf", 1.0),)  # type: ignore[arg-type]
