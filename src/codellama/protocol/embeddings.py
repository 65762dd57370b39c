"""`/v1/embeddings` (OpenAI's) and `/embedding`, `/embeddings` (llama-server's): requests and answers.

Shapes as in llama.cpp's tools/server (server-context.cpp, server-common.cpp): the native routes answer with
a list of `{"index", "embedding"}` whose `embedding` is a list of vectors, one vector unless pooling is
"none"; `content` in place of `input` asks for that shape on `/v1/embeddings` too. What is pooled is scaled
by `embd_normalize`, vectors per token are given as they are.
"""

from __future__ import annotations

import base64
import json
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from codellama.compat.embeddings import embeddings_json
from codellama.errors import InvalidRequestError
from codellama.protocol import limits
from codellama.protocol.body import Fields, respell
from codellama.protocol.prompts import parse_prompts
from codellama.running.embedding import EUCLIDEAN, Embeddings, Vectors, norm_number

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel

_NO_NORM = -1


class EmbeddingRequest(Fields):
    """The body of all three routes. `input` is a text, token ids, a mix of both, or a list of these."""

    aliases = {"content": "input"}
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    embd_normalize: int = EUCLIDEAN

    def is_openai(self, route: bool) -> bool:
        """Whether the answer has OpenAI's shape on an OpenAI `route`: `content` is not a field of its."""
        return route and self._spelling.get("input") == "input"

    def submit(self, llm: LanguageModel, openai: bool) -> Future[Embeddings]:
        """Check the request and hand it to the engine. Raises what `LLM.embeddings` raises."""
        per_token = llm.config.pooling == "none"
        self._check(llm, openai, per_token)
        norm = _NO_NORM if per_token else self.embd_normalize
        try:
            prompts = parse_prompts(self.input, llm)
            return llm.embeddings(prompts, normalize=norm)
        except InvalidRequestError as error:
            name = self._spelling["input"]
            respell(error, {"prompt": name, "input": name})
            raise

    def body(self, found: Embeddings, model: str, openai: bool) -> bytes:
        """The response.

        It is put together vector by vector: turning millions of numbers into text in one call would
        hold up every other thread.
        """
        if not openai:
            vectors = [_rows_json(np.atleast_2d(vector)) for vector in found.vectors]
            items = [f'{{"index":{i},"embedding":{text}}}' for i, text in enumerate(vectors)]
            return f"[{','.join(items)}]".encode()
        frame = embeddings_json([], found.n_tokens, model)
        del frame["data"]
        items = [
            f'{{"object":"embedding","index":{i},"embedding":{self._vector_json(vector)}}}'
            for i, vector in enumerate(found.vectors)
        ]
        return f'{{"data":[{",".join(items)}],{json.dumps(frame)[1:]}'.encode()

    def _check(self, llm: LanguageModel, openai: bool, per_token: bool) -> None:
        if openai and per_token:
            raise InvalidRequestError(
                "{param} none gives a vector per token, for which this format has no room: use "
                "/embeddings, or load the model with another pooling",
                "pooling",
            )
        if self.encoding_format == "base64" and not openai:
            raise InvalidRequestError(
                "{param} base64 is known to /v1/embeddings only: leave it out",
                "encoding_format",
            )
        if self.dimensions is not None:
            raise InvalidRequestError(
                "{param} is not supported: the model's vectors cannot be shortened; leave it out",
                "dimensions",
            )
        try:
            norm_number(self.embd_normalize)
        except InvalidRequestError as error:
            respell(error, {"normalize": "embd_normalize"})
            raise
        texts = self.input if isinstance(self.input, list) else [self.input]
        name = self._spelling["input"]
        if len(texts) > limits.PROMPTS and not isinstance(texts[0], int):
            raise InvalidRequestError(
                "{param} must not hold more than {most} texts", name, most=limits.PROMPTS
            )
        if not texts:
            raise InvalidRequestError("{param} must not be empty", name)

    def _vector_json(self, vector: Vectors) -> str:
        if self.encoding_format == "float":
            return _numbers(vector)
        return json.dumps(base64.b64encode(vector.astype("<f4").tobytes()).decode())


def _rows_json(rows: Vectors) -> str:
    return f"[{','.join(_numbers(row) for row in rows)}]"


def _numbers(vector: Vectors) -> str:
    return json.dumps(vector.tolist(), allow_nan=False, separators=(",", ":"))
