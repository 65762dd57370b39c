"""The vocabulary of a model that is going to be measured, opened without its weights."""

from __future__ import annotations

from contextlib import ExitStack

from codellama.devices.plan import ModelPlan
from codellama.files.loadable import read_model
from codellama.files.lost_scores import mended_vocabulary
from codellama.native.model import Model, Tokenizer
from codellama.native.settings import WeightSettings


def open_vocabulary(plan: ModelPlan, undo: ExitStack) -> Tokenizer:
    """The tokenizer that the model of `plan` will have, freed by `undo`. Raises ModelLoadError."""
    settings = WeightSettings(vocab_only=True, overrides=plan.weights.overrides)
    with mended_vocabulary(read_model(plan.path)) as mended:
        return undo.enter_context(Model(mended or plan.path, settings)).tokenizer
