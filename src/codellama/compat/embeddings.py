"""`llama_cpp.Llama`'s `embed` and `create_embedding` on an `LLM`: same signatures, same shapes.

Three things differ on purpose: a text that does not fit the context is an error and never cut, an empty
one is an error too, and without a `pooling` the vectors are means over the tokens (llama-cpp-python returns
a vector per token for these models).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from codellama.compat.replies import Json
from codellama.errors import InvalidRequestError
from codellama.params import Pooling, Prompt
from codellama.running.embedding import Embeddings

if TYPE_CHECKING:
    from codellama.running.language_model import LanguageModel

Input = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""A text, token ids, or several of one of them."""


class EmbeddingCompatible:
    """Mixin for `LLM`: `embed`, `create_embedding`."""

    def embed(
        self: LanguageModel,
        input: Input,
        normalize: bool | int = False,
        truncate: bool = False,
        return_count: bool = False,
        *,
        pooling: Pooling | None = None,
    ) -> Any:
        """The vector of a text or of token ids as a list of floats, of several a list of these.

        With pooling "none" each is a list of vectors, one per token. `normalize` True scales them to
        length 1. With `return_count` the result is a pair with the number of tokens in all. Text is
        taken as it is, with BOS before it. Raises what `LLM.embeddings` raises.
        """
        if truncate:
            raise InvalidRequestError(
                "{param}: a text that is too long is never cut; leave it out", "truncate"
            )
        texts, one = _texts(input)
        prompts = [_prompt(self, text) for text in texts]
        found = self.embeddings(prompts, pooling=pooling, normalize=normalize).result()
        vectors = _lists(found)
        result = vectors[0] if one else vectors
        return (result, sum(found.n_tokens)) if return_count else result

    def create_embedding(self: LanguageModel, input: Input, model: str | None = None) -> Json:
        """OpenAI's dictionary with the vectors of one text or several, as they come from the model."""
        texts, _ = _texts(input)
        prompts = [_prompt(self, text) for text in texts]
        found = self.embeddings(prompts, normalize=False).result()
        return embeddings_json(_lists(found), found.n_tokens, model or self.name)


def embeddings_json(vectors: Sequence[Any], n_tokens: Sequence[int], model: str) -> Json:
    """OpenAI's list of embeddings; a vector is whatever stands for one."""
    total = sum(n_tokens)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": vector, "index": index}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": total, "total_tokens": total},
    }


def _lists(found: Embeddings) -> list[Any]:
    return [vector.tolist() for vector in found.vectors]


def _texts(input: Any) -> tuple[list[Any], bool]:
    """The inputs, and whether it was one alone."""
    if isinstance(input, str) or (input and all(isinstance(part, int) for part in input)):
        return [input], True
    return list(input), False


def _prompt(host: LanguageModel, text: str | Sequence[int]) -> Prompt:
    if len(text) == 0:
        raise InvalidRequestError("{param} holds an empty text: leave it out", "input")
    try:
        return host.complete_prompt(text)
    except InvalidRequestError as error:
        error.rename("input")
        raise
