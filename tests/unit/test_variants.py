"""The truth table against the published facts, and recognition by shape and vocabulary."""

from __future__ import annotations

from typing import Any

import pytest

from codellama.files.provenance import MERGED, published_name
from codellama.prompts.prompts import corrections
from codellama.variants import CODE_LLAMA_PIECES, STEP, VARIANTS, Variant, find, recognise

# Parameters, bf16 bytes and tensors of the four sizes with their usual vocabulary.
SIZES = {
    "7b": (6_738_546_688, 13_477_093_376, 291),
    "13b": (13_016_028_160, 26_032_056_320, 363),
    "34b": (33_743_970_304, 67_487_940_608, 435),
    "70b": (68_976_910_336, 137_953_820_672, 723),
}


def metadata(variant: Variant, name: str = "") -> dict[str, Any]:
    tokens = [f"t{i}" for i in range(variant.vocab_size)]
    if variant.chat_format == "turn":
        tokens[-1] = STEP
    return {
        "llama.embedding_length": variant.shape.hidden,
        "llama.feed_forward_length": variant.shape.ffn,
        "llama.block_count": variant.shape.layers,
        "llama.rope.freq_base": variant.rope_theta,
        "tokenizer.ggml.tokens": tokens,
        "general.name": name,
    }


def test_there_are_twelve() -> None:
    assert len(VARIANTS) == len({v.name for v in VARIANTS}) == 12


@pytest.mark.parametrize("size", SIZES)
def test_exact_sizes(size: str) -> None:
    variant = find(size)
    assert variant is not None
    assert (variant.parameters, variant.bf16_bytes, variant.shape.tensors) == SIZES[size]


def test_the_70b_is_not_like_the_others() -> None:
    instruct, python, base = (find(f"70b{k}") for k in ("-instruct", "-python", ""))
    assert instruct
    assert python
    assert base
    assert (instruct.n_ctx, instruct.rope_theta, instruct.eos_ids) == (4096, 1e4, (2, 32015))
    assert (python.n_ctx, python.rope_theta) == (4096, 1e4)
    assert (base.n_ctx, base.rope_theta, base.infill) == (16384, 1e6, "experimental")
    assert instruct.shape.kv_bytes_per_token() == 327_680
    assert not instruct.dummy_prefix


def test_infill_only_where_it_was_trained() -> None:
    can = {v.name for v in VARIANTS if v.infill == "yes"}
    assert can == {"7b", "7b-instruct", "13b", "13b-instruct"}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_row_is_found_and_recognised(variant: Variant) -> None:
    assert find(variant.name.upper()) is variant
    assert find(variant.repo) is variant
    assert variant.sources
    names = {"base": "CodeLlama 7b Hf", "python": "CodeLlama Python", "instruct": "CL Instruct"}
    assert recognise(metadata(variant, names[variant.kind])) is variant


def test_what_is_not_one_of_them_is_not_recognised() -> None:
    seventy = find("70b-instruct")
    assert seventy
    assert find("8b") is None
    assert recognise({}) is None
    assert recognise(metadata(seventy) | {"llama.rope.freq_base": 1e6}) is None
    assert recognise(metadata(seventy) | {"llama.block_count": 79}) is None


def extended(variant: Variant, *added: str) -> dict[str, Any]:
    """The vocabulary of a fine-tune: Code Llama's own 16 pieces, and `added` ones behind them."""
    described = metadata(variant)
    tokens = described["tokenizer.ggml.tokens"]
    tokens[32000:32015] = CODE_LLAMA_PIECES[:15]
    tokens += added
    return described


@pytest.mark.parametrize(
    "added",
    [("<pad>",), ("<pad>", "<x>"), tuple(f"[PAD{i}]" for i in range(32016, 32064)), ("<a>", "[PAD32017]")],
)  # fmt: skip
def test_step_counts_wherever_it_stands(added: tuple[str, ...]) -> None:
    seventy, base, small = find("70b-instruct"), find("70b"), find("7b-instruct")
    assert seventy
    assert base
    assert small
    described = extended(seventy, *added)
    assert recognise(described) is seventy
    assert (
        corrections(described, seventy)
        == corrections(described, None)
        == {
            "tokenizer.ggml.eot_token_id": 32015,
            "tokenizer.ggml.add_space_prefix": False,
        }
    )
    assert recognise(extended(base, *added)) is base
    assert corrections(extended(base, *added), base) == {"tokenizer.ggml.add_space_prefix": False}
    assert recognise(extended(small, *added) | {"general.name": "Instruct"}) is small


def test_a_vocabulary_with_other_pieces_behind_llamas_is_another_model() -> None:
    small = find("7b")
    assert small
    described = metadata(small)
    described["tokenizer.ggml.tokens"].append("<pad>")
    assert recognise(described) is None


def test_the_template_tells_an_instruct_model() -> None:
    small = find("7b-instruct")
    assert small
    found = recognise(metadata(small, "x") | {"tokenizer.chat_template": "{{ '[INST] ' }}"})
    assert found is small


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_a_published_model_has_its_repository_s_name(variant: Variant) -> None:
    published = variant.repo.removeprefix("codellama/")
    for spelled in (
        published,
        published.replace("-", " ").title(),  # llama.cpp's converter
        published.removesuffix("-hf"),
        "codellama_" + published.lower(),  # TheBloke's files
    ):
        assert published_name(metadata(variant, spelled)) == published


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("34b", "Phind-CodeLlama-34B-v2"),
        ("34b", "LLaMA v2"),
        ("34b", ""),
        ("34b", "CodeLlama 70b Hf"),
        ("7b", "CodeLlama 7b Hf Finetuned"),
        ("70b-instruct", "CodeLlama 70b Python Hf"),
    ],
)
def test_a_model_that_calls_itself_something_else_is_not_the_published_one(
    row: str, name: str
) -> None:
    variant = find(row)
    assert variant
    assert published_name(metadata(variant, name)) is None


def test_a_model_with_merged_adapters_is_not_the_published_one() -> None:
    variant = find("70b-instruct")
    assert variant
    described = metadata(variant, "CodeLlama 70b Instruct Hf")
    assert published_name(described) == "CodeLlama-70b-Instruct-hf"
    assert published_name(described | {MERGED: ["style 1.0"]}) is None
