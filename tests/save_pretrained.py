"""A program for the Python of scripts/tool_venv, or .venv's: saves a checkpoint as its users would.

    python save_pretrained.py FOLDER OUTPUT [--add TOKEN ...] [--rows MULTIPLE]

It is no test: it runs where the tests' packages are not.
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any


def main() -> None:
    """Load model and tokenizer, add tokens and rows if that is asked for, save both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("output")
    parser.add_argument("--add", nargs="*", default=[])
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    transformers: Any = importlib.import_module("transformers")
    floats = importlib.import_module("torch").float32
    model = transformers.LlamaForCausalLM.from_pretrained(options.folder, dtype=floats)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.folder)
    if options.add:
        tokenizer.add_special_tokens({"additional_special_tokens": options.add})
    if options.add or options.rows:
        n_tokens = (
            max(tokenizer.get_vocab().values()) + 1 if options.add else model.config.vocab_size
        )
        model.resize_token_embeddings(
            n_tokens, pad_to_multiple_of=options.rows, mean_resizing=False
        )
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)


if __name__ == "__main__":
    main()
