"""A model's vocabulary and prompt formats, loaded without its weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codellama.files.loadable import read_vocabulary
from codellama.files.lost_scores import MENDED, mended_vocabulary
from codellama.native.model import Model, Tokenizer
from codellama.native.settings import WeightSettings
from codellama.params import ModelConfig
from codellama.prompts.prompts import Prompts, corrections
from codellama.variants import recognise

logger = logging.getLogger(__name__)


@contextmanager
def load_vocabulary(path: Path) -> Iterator[tuple[Prompts, Tokenizer]]:
    """The prompts and the tokenizer of the GGUF at `path`. Raises ModelLoadError if it is none."""
    header = read_vocabulary(path)
    metadata = header.metadata
    variant = recognise(metadata)
    settings = WeightSettings(vocab_only=True, overrides=corrections(metadata, variant))
    with mended_vocabulary(header) as mended:
        if mended is not None:
            logger.warning("%s: %s", path, MENDED)
        opened = Model(mended or path, settings)
    with opened as model:
        tokenizer = model.tokenizer
        yield Prompts(path.stem, tokenizer, metadata, variant, ModelConfig()), tokenizer
