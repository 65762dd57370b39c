"""The truth table of the 12 published Code Llama models.

Each row is what the checkpoint must look like and what the model was trained to do; every value names
its source. A value that no source confirms is None: it is read from the checkpoint, never assumed.
`recognise` finds the row of a model by its shape and vocabulary, not by its file name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["base", "python", "instruct"]
ChatFormatName = Literal["turn", "inst", "none"]
Infill = Literal["yes", "no", "experimental"]

STEP = "<step>"
"""Ends every turn of 70B Instruct; id 32015 there (added_tokens.json of the checkpoint)."""

LLAMA_PIECES = 32000
"""How many pieces all Llama and Llama 2 models have."""

LLAMA_SHA256 = "b43c657d6772da32c3e0971ab610fc3d6a7e45089582758d1bc5160e5cdbe588"
"""Of their texts in UTF-8, by id, with a NUL between two (ggml-vocab-llama-spm.gguf of llama.cpp)."""

FIM_PIECES = {32007: "▁<PRE>", 32008: "▁<SUF>", 32009: "▁<MID>", 32010: "▁<EOT>"}
"""The infill pieces of the models with 32016 pieces (microsoft/aici, ggml-org/llama.cpp#2934)."""

CODE_LLAMA_PIECES = (
    *("▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT", *FIM_PIECES.values()),
    *("▁" + "<EOT>" * count for count in range(2, 7)),
)
"""Ids 32000 to 32015 of those models (microsoft/aici); in 70B Instruct the last one is `<step>`."""

_PADDING = re.compile(r"\[PAD\d+\]", re.ASCII)


@dataclass(frozen=True)
class Shape:
    """The four architectures (Lightning-AI/litgpt config.py and the models' config.json).

    Rows of tensors, heads and layers; `head_dim` is 128 and `norm_eps` 1e-5 everywhere. Embeddings
    are untied, there are no biases, BOS is 1 and EOS 2.
    """

    size: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def tensors(self) -> int:
        """Tensors in the checkpoint: nine per layer, embedding, output and final norm."""
        return 9 * self.layers + 3

    def parameters(self, vocab_size: int) -> int:
        """Exact number of weights with this vocabulary."""
        kv = self.hidden * self.kv_heads // self.heads
        attention = 2 * self.hidden * self.hidden + 2 * self.hidden * kv
        layer = attention + 3 * self.hidden * self.ffn + 2 * self.hidden
        return self.layers * layer + 2 * vocab_size * self.hidden + self.hidden

    def kv_bytes_per_token(self, bytes_per_value: float = 2.0) -> int:
        """Bytes of KV cache per token, keys and values of all layers (default: f16)."""
        return round(2 * self.layers * self.kv_heads * 128 * bytes_per_value)


SHAPES: dict[str, Shape] = {
    "7b": Shape("7b", 4096, 11008, 32, 32, 32),
    "13b": Shape("13b", 5120, 13824, 40, 40, 40),
    "34b": Shape("34b", 8192, 22016, 48, 64, 8),
    "70b": Shape("70b", 8192, 28672, 80, 64, 8),
}


@dataclass(frozen=True)
class Variant:
    """One published model. `n_ctx` is the context it was trained for, in tokens.

    `eos_ids` end generation (generation_config.json). `shards` is the number of safetensors files,
    None where no source shows it.
    `remark` says what to know, `sources` where the row comes from.
    """

    name: str
    kind: Kind
    shape: Shape
    vocab_size: int
    n_ctx: int
    rope_theta: float
    chat_format: ChatFormatName
    infill: Infill
    eos_ids: tuple[int, ...]
    sources: tuple[str, ...]
    shards: int | None = None
    remark: str = ""

    @property
    def repo(self) -> str:
        """The Hugging Face repository."""
        size, *rest = self.name.split("-")
        suffix = "".join(f"-{part.capitalize()}" for part in rest)
        return f"codellama/CodeLlama-{size}{suffix}-hf"

    @property
    def published_name(self) -> str:
        """The repository's name without its organisation, such as "CodeLlama-70b-Instruct-hf"."""
        return self.repo.partition("/")[2]

    @property
    def parameters(self) -> int:
        """Exact number of weights."""
        return self.shape.parameters(self.vocab_size)

    @property
    def bf16_bytes(self) -> int:
        """Size of the bf16 weights, in bytes: what has to be downloaded."""
        return 2 * self.parameters

    @property
    def dummy_prefix(self) -> bool:
        """Whether the tokenizer puts a space before a text (false for 70B: its SentencePiece model
        has add_dummy_prefix off, which the card's 49 ids confirm)."""
        return self.shape.size != "70b"


LITGPT = "Lightning-AI/litgpt litgpt/config.py"
META_README = "meta-llama/codellama README.md"
META_CARD = "meta-llama/codellama MODEL_CARD.md"
ISSUE_188 = "meta-llama/codellama#188 (reply by Meta)"
DERIVED_34B = "config.json of derived repositories (Safurai, MAmmoTH, GoLLIE)"
EXL2 = "huggingface-metadata.txt of LoneStriker's exl2 repositories"


def _config(repo: str) -> str:
    return f"config.json of {repo}"


def _small(
    size: str,
    kind: Kind,
    sources: tuple[str, ...],
    remark: str = "",
) -> Variant:
    """A 7B or 13B model: 16k context, infill for base and Instruct (Meta's README)."""
    python = kind == "python"
    return Variant(
        name=size if kind == "base" else f"{size}-{kind}",
        kind=kind,
        shape=SHAPES[size],
        vocab_size=32000 if python else 32016,
        n_ctx=16384,
        rope_theta=1e6,
        chat_format="inst" if kind == "instruct" else "none",
        infill="no" if python else "yes",
        eos_ids=(2,),
        sources=(*sources, META_README),
        remark=remark,
    )


def _medium(kind: Kind) -> Variant:
    """A 34B model: 32000 pieces, so no infill and no `<step>`."""
    return Variant(
        name="34b" if kind == "base" else f"34b-{kind}",
        kind=kind,
        shape=SHAPES["34b"],
        vocab_size=32000,
        n_ctx=16384,
        rope_theta=1e6,
        chat_format="inst" if kind == "instruct" else "none",
        infill="no",
        eos_ids=(2,),
        sources=(LITGPT, DERIVED_34B, META_README),
    )


VARIANTS: tuple[Variant, ...] = (
    _small("7b", "base", (_config("codellama/CodeLlama-7b-hf"),)),
    _small("7b", "python", (_config("codellama/CodeLlama-7b-Python-hf"),)),
    _small("7b", "instruct", ("generation_config.json of the repository", LITGPT)),
    _small("13b", "base", (LITGPT,)),
    _small("13b", "python", (LITGPT,)),
    _small(
        "13b", "instruct", (LITGPT,),
        "litgpt lists 2048 positions, probably an early config.json: the checkpoint decides",
    ),
    _medium("base"),
    _medium("python"),
    _medium("instruct"),
    Variant(
        name="70b", kind="base", shape=SHAPES["70b"], vocab_size=32016, n_ctx=16384,
        rope_theta=1e6, chat_format="none", infill="experimental", eos_ids=(2,), shards=29,
        sources=(_config("monsterapi/CodeLlama-70b-hf_4bit_bnb"), LITGPT, ISSUE_188, META_CARD, EXL2),
        remark="Meta's model card says it infills, Meta's README does not: only when asked to",
    ),
    Variant(
        name="70b-python", kind="python", shape=SHAPES["70b"], vocab_size=32016, n_ctx=4096,
        rope_theta=1e4, chat_format="none", infill="no", eos_ids=(2,), sources=(ISSUE_188, META_CARD),
        remark="config.json not seen, it may still say 2048 positions; litgpt's 1e6 / 16384 is wrong",
    ),
    Variant(
        name="70b-instruct", kind="instruct", shape=SHAPES["70b"], vocab_size=32016, n_ctx=4096,
        rope_theta=1e4, chat_format="turn", infill="no", eos_ids=(2, 32015), shards=29,
        sources=(
            _config("VishaalY/CodeLlama-70b-instruct-neuron"), _config("openbmb/Eurus-70b-nca"),
            "codellama/CodeLlama-70b-Instruct-hf commits 8050903 and c9f6cf9", META_CARD, EXL2,
        ),
        remark="the card's 16k contradicts config.json and Meta's model card: 4096 is the limit",
    ),
)  # fmt: skip


def find(name: str) -> Variant | None:
    """The variant with this name ("70b-instruct") or repository, whatever the case; else None."""
    wanted = name.lower()
    return next((v for v in VARIANTS if wanted in (v.name, v.repo.lower())), None)


def recognise(metadata: Mapping[str, Any]) -> Variant | None:
    """The published model that a GGUF's metadata describes, or None.

    Shape and vocabulary leave at most three kinds. 70B Instruct has `<step>` and 70B Python a base
    frequency of 1e4 without it; the rest is told apart by what the converter wrote of the model's
    name and by its chat template. Tokens that were added behind Code Llama's 16, and rows that only
    pad the embedding, make it no other model.
    """
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    shape = (
        metadata.get("llama.embedding_length"),
        metadata.get("llama.feed_forward_length"),
        metadata.get("llama.block_count"),
    )
    vocab_size = _published_size(tokens)
    rows = [
        v
        for v in VARIANTS
        if (v.shape.hidden, v.shape.ffn, v.shape.layers) == shape and v.vocab_size == vocab_size
    ]
    theta = float(metadata.get("llama.rope.freq_base") or 1e4)
    step = STEP in tokens
    rows = [v for v in rows if v.rope_theta == theta and (v.chat_format == "turn") == step]
    if len(rows) <= 1:
        return rows[0] if rows else None
    kind = _described_kind(metadata)
    return next((v for v in rows if v.kind == kind), rows[0])


def padding(token_id: int) -> str:
    """What llama.cpp's converter calls a row of the embedding that no token names."""
    return f"[PAD{token_id}]"


def _published_size(tokens: Sequence[str]) -> int:
    """How many tokens there are without padding, and without those added to Code Llama's."""
    size = len(tokens)
    while size and _PADDING.fullmatch(tokens[size - 1]):
        size -= 1
    published = LLAMA_PIECES + len(CODE_LLAMA_PIECES)
    own = size > published and all(tokens[i] == piece for i, piece in FIM_PIECES.items())
    return published if own else size


def _described_kind(metadata: Mapping[str, Any]) -> Kind:
    keys = ("general.name", "general.finetune", "general.basename")
    text = " ".join(str(metadata.get(key, "")) for key in keys).lower()
    if "instruct" in text or "[INST]" in str(metadata.get("tokenizer.chat_template", "")):
        return "instruct"
    return "python" if "python" in text else "base"
