"""llama_cpp.Llama's keywords: each one translated, neutral, or an error that says what to do."""

from __future__ import annotations

import inspect
from typing import Any

import llama_cpp
import pytest
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from codellama import CodeLlamaError, InvalidRequestError, Llama, ModelConfig, UnsupportedError
from codellama.compat.llama_keywords import model_options, request_seed


def parameters(method: Any) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(method).parameters.items()}


def config(**given: Any) -> ModelConfig:
    return ModelConfig.of(**model_options(given, has_gpu=True))


def test_the_constructor_has_llama_cpps_keywords_and_defaults() -> None:
    theirs, ours = parameters(llama_cpp.Llama.__init__), parameters(Llama.__init__)
    del theirs["kwargs"], ours["config"]
    assert list(ours) == list(theirs)
    assert {name for name in ours if ours[name] != theirs[name]} == {"flash_attn"}
    assert ours["flash_attn"] is None  # which leaves the choice to the plan


def test_the_methods_have_llama_cpps_parameters() -> None:
    for name in (
        "create_completion",
        "create_chat_completion",
        "__call__",
        "tokenize",
        "detokenize",
    ):
        theirs = parameters(getattr(llama_cpp.Llama, name))
        assert list(parameters(getattr(Llama, name))) == list(theirs), name
    for name in ("create_embedding", "embed", "from_pretrained"):
        theirs = parameters(getattr(llama_cpp.Llama, name))
        theirs.pop("kwargs", None)
        assert set(theirs) <= set(parameters(getattr(Llama, name))), name


def test_llama_cpps_defaults_are_ours_but_for_layers_and_context() -> None:
    given = parameters(Llama.__init__)
    for name in ("self", "model_path", "config", "seed", "last_n_tokens_size"):
        del given[name]
    assert config(**given) == ModelConfig(n_ctx=512, n_gpu_layers=0)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"n_ctx": 0}, {"n_ctx": None}),
        ({"n_ctx": 2048}, {"n_ctx": 2048}),
        ({"n_gpu_layers": -1}, {"n_gpu_layers": "all"}),
        ({"n_gpu_layers": 2**31 - 1}, {"n_gpu_layers": "all"}),
        ({"n_gpu_layers": "auto"}, {"n_gpu_layers": "auto"}),
        ({"n_batch": 64}, {"n_batch": 64, "n_ubatch": 64}),
        ({"n_batch": 2}, {"n_batch": 2, "n_ubatch": 2, "n_seq_max": 2}),
        ({"n_ctx": 128}, {"n_ctx": 128, "n_batch": 128, "n_ubatch": 128}),
        ({"n_batch": 2048, "n_ctx": 0}, {"n_batch": 2048, "n_ubatch": 512}),
        ({"n_threads": 0, "n_threads_batch": 0}, {}),
        ({"tensor_split": None}, {}),
        ({"tensor_split": [3, 1]}, {"tensor_split": (3, 1)}),
        ({"split_mode": 2}, {"split_mode": "row"}),
        ({"type_k": 8, "type_v": 8}, {"type_k": "q8_0", "type_v": "q8_0"}),
        ({"type_k": 30}, {"type_k": "bf16"}),
        ({"type_v": "q4_0"}, {"type_v": "q4_0"}),
        ({"flash_attn": True}, {"flash_attn": "on"}),
        ({"flash_attn": False}, {"flash_attn": "off"}),
        ({"embedding": True, "pooling_type": 3}, {"embeddings": True, "pooling": "last"}),
        ({"rope_freq_base": 0.0, "rope_freq_scale": 0.0}, {}),
        ({"rope_freq_base": 1e6}, {"rope_freq_base": 1e6}),
        ({"rope_scaling_type": 2, "yarn_orig_ctx": 4096}, {"rope_scaling": "yarn", "yarn_orig_ctx": 4096}),
        ({"yarn_beta_fast": 16.0}, {"yarn_beta_fast": 16.0}),
        ({"lora_path": None, "lora_scale": 0.5}, {}),
        ({"lora_path": "a.gguf", "lora_scale": 0.5}, {"lora": (("a.gguf", 0.5),)}),
        ({"chat_format": "codellama-70b-instruct"}, {"chat_format": "turn"}),
        ({"chat_format": "llama-2"}, {"chat_format": "inst"}),
        ({"draft_model": "small.gguf"}, {"draft_model": "small.gguf"}),
        (
            {"draft_model": LlamaPromptLookupDecoding(num_pred_tokens=7)},
            {"spec_type": "ngram", "spec_draft_n_max": 7},
        ),
        ({"n_parts": -1, "f16_kv": False, "device": None}, {}),  # which LangChain still sends
        ({"verbose": True, "logits_all": True, "no_perf": True, "swa_full": False}, {}),
        ({"n_seq_max": 8, "cache_ram": 16}, {"n_seq_max": 8, "cache_ram": 16}),
    ],
)  # fmt: skip
def test_what_a_keyword_becomes(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert config(**given) == ModelConfig(**{"n_gpu_layers": 0, **wanted})


def test_all_layers_are_none_without_a_gpu() -> None:
    assert model_options({"n_gpu_layers": -1}, has_gpu=False)["n_gpu_layers"] == 0
    assert model_options({"n_gpu_layers": 5}, has_gpu=False)["n_gpu_layers"] == 5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"vocab_only": True}, "vocab_only: True is not supported: leave it out"),
        ({"kv_overrides": {"a": 1}}, "kv_overrides: dict is not supported"),
        ({"attention_type": 1}, "attention_type"),
        ({"op_offload": False}, "op_offload"),
        ({"lora_base": "base.gguf"}, "lora_base: 'base.gguf' is not supported: merge"),
        ({"numa": True}, "numa: True is not supported.*numactl"),
        ({"chat_handler": print}, "chat_handler: .* built in"),
        ({"tokenizer": object()}, "tokenizer"),
        ({"spm_infill": True}, "spm_infill"),
        ({"n_parts": 2}, "n_parts: 2 is not supported"),
        ({"type_k": 12}, "type_k must be one of 0 \\(f32\\)"),
        ({"type_k": True}, "type_k must be one of"),
        ({"type_v": "q9"}, "type_v must be one of"),
        ({"split_mode": 3}, "split_mode"),
        ({"pooling_type": 4}, "pooling_type must be one of 0 \\(none\\)"),
        ({"rope_scaling_type": 3}, "rope_scaling_type"),
        ({"chat_format": "chatml"}, "chat_format must be one of turn, codellama-70b-instruct"),
        ({"draft_model": 7}, "draft_model must be the path"),
        ({"n_ctx": -1}, "n_ctx must be"),
        ({"n_gpu_layers": -2}, "n_gpu_layers must be"),
        ({"flash_attn": "maybe"}, "flash_attn must be one of"),
        ({"n_threds": 2}, "did you mean n_threads"),
    ],
)
def test_what_cannot_be_honoured_names_the_keyword(given: dict[str, Any], words: str) -> None:
    with pytest.raises(CodeLlamaError, match=words) as caught:
        config(**given)
    assert isinstance(caught.value, (InvalidRequestError, UnsupportedError))


@pytest.mark.parametrize("seed", [None, -1, 2**32 - 1])
def test_llama_cpps_spellings_of_no_seed(seed: int | None) -> None:
    assert request_seed(seed) is None
    assert request_seed(0) == 0
