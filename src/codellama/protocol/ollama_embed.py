"""Ollama's `/api/embed` and its older `/api/embeddings`: requests and answers.

A text that does not fit the context is an error and never cut, whatever `truncate` says. The vectors of
`/api/embed` have length 1, those of `/api/embeddings` are as they come from the model, as in Ollama.
"""

from __future__ import annotations

import json
import time
from typing import Any

from pydantic import PrivateAttr

from codellama.protocol.embeddings import EmbeddingRequest
from codellama.running.embedding import Embeddings


class OllamaEmbedRequest(EmbeddingRequest):
    """The body of `/api/embed`."""

    aliases = {}
    no_effect = frozenset({"model", "truncate", "options", "keep_alive"})
    ignored = {}
    neutral = {}

    _started: int = PrivateAttr(default_factory=time.perf_counter_ns)

    def is_openai(self, route: bool) -> bool:
        """Here as there an answer has one vector per text, and room for nothing else."""
        return True

    def body(self, found: Embeddings, model: str, openai: bool) -> bytes:
        """The response."""
        frame = {
            "model": model,
            "total_duration": time.perf_counter_ns() - self._started,
            "load_duration": 0,
            "prompt_eval_count": sum(found.n_tokens),
        }
        # Vector by vector, as the other routes.
        vectors = ",".join(json.dumps(vector.tolist()) for vector in found.vectors)
        return f'{json.dumps(frame)[:-1]},"embeddings":[{vectors}]}}'.encode()


class OllamaOldEmbedRequest(OllamaEmbedRequest):
    """The body of `/api/embeddings`: one text, one vector."""

    aliases = {"prompt": "input"}

    input: str
    embd_normalize: int = -1

    def body(self, found: Embeddings, model: str, openai: bool) -> bytes:
        """The response."""
        body: dict[str, Any] = {"embedding": found.vectors[0].tolist()}
        return json.dumps(body).encode()
