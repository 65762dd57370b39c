"""A model's vocabulary and prompt formats, loaded without its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codellama.files.loadable import read_vocabulary
from codellama.native.model import Model, Tokenizer
from codellama.native.settings import WeightSettings
from codellama.params import ModelConfig
from codellama.prompts.prompts import Prompts, corrections
from codellama.variants import recognise


@contextmanager
def load_vocabulary(path: Path) -> Iterator[tuple[Prompts, Tokenizer]]:
    """The prompts and the tokenizer of the GGUF at `path`. Raises ModelLoadError if it is none."""
    metadata = read_vocabulary(path).metadata
    variant = recognise(metadata)
    settings = WeightSettings(vocab_only=True, overrides=corrections(metadata, variant))
    with Model(path, settings) as model:
        tokenizer = model.tokenizer
        yield Prompts(path.stem, tokenizer, metadata, variant, ModelConfig()), tokenizer
