"""A `FakeLLM` that gives every text a vector."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from codellama.params import Pooling, Prompt
from codellama.running.embedding import Embeddings
from tests.fake_llm import FakeLLM


class WithVectors(FakeLLM):
    """The vector of a text is (3, its length); `normalize` is what was asked last."""

    normalize: bool | int | None = None

    def embeddings(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling | None = None,
        normalize: bool | int = True,
    ) -> Future[Embeddings]:
        future: Future[Embeddings] = Future()
        lengths = tuple(len(p.tokens) for p in prompts)
        vectors = tuple(np.array([3, length], dtype="f4") for length in lengths)
        future.set_result(Embeddings(vectors, lengths))
        self.normalize = normalize
        return future
