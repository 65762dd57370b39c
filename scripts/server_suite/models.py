"""Stand-ins for the small models that llama.cpp's server tests download.

`stories` has Llama's vocabulary and random weights, and writes plain words without an end: the rows of its
output matrix are zero for everything else. The demo model stands in where infilling, drafts or adapters are
tested.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import gguf
import numpy as np

from make_random_model import Pieces, Shape, pieces_of, write_bf16

ROOT = Path(__file__).parents[2]
SMALL = Shape(hidden=256, ffn=512, layers=2, heads=4, kv_heads=2)
WORD = re.compile("▁?[A-Za-z]+")
RANK = 4
TYPES = ("Q8_0", "Q4_0")


def make_models(folder: Path, vocabulary: Path) -> dict[str, str]:
    """Write what is missing; the path of each stand-in by its name."""
    from codellama.weights.convert import convert

    folder.mkdir(parents=True, exist_ok=True)
    stories = folder / "stories.gguf"
    if not stories.exists():
        _write_stories(stories, pieces_of(vocabulary))
    found = {"stories": stories, "lora": folder / "lora.gguf"}
    for kind in TYPES:
        path = found[kind] = folder / f"demo.{kind}.gguf"
        if not path.exists():
            convert(ROOT / "models" / "demo", path, kind)
    if not found["lora"].exists():
        _write_adapter(found["lora"], found[TYPES[0]])
    return {name: str(path) for name, path in found.items()}


def _write_stories(path: Path, pieces: Pieces) -> None:
    part = path.with_suffix(".part")
    write_bf16(part, "stories", SMALL, pieces, seed=1)
    reader = gguf.GGUFReader(part, "r+")
    output = next(t for t in reader.tensors if t.name == "output.weight")
    silent = [i for i, text in enumerate(pieces.texts) if not WORD.fullmatch(text)]
    output.data[silent] = 0
    del reader, output
    part.rename(path)


def _write_adapter(path: Path, model: Path) -> None:
    """An adapter of the first layer's queries with random weights."""
    reader = gguf.GGUFReader(model)
    tensor = next(t for t in reader.tensors if t.name == "blk.0.attn_q.weight")
    columns, rows = (int(n) for n in tensor.shape)
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for end, shape in (("a", (RANK, columns)), ("b", (rows, RANK))):
        values = rng.normal(0, 2, shape).astype(np.float32)
        writer.add_tensor(f"{tensor.name}.lora_{end}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def named_in(models: dict[str, str]) -> str:
    """The stand-ins as the text that the translation of options reads."""
    return json.dumps(models)
