"""A PEFT adapter on a model: which tensors of a GGUF it changes, and how; shapes are checked here.

Two things are made of it: a LoRA GGUF (`adapter_gguf`), which holds low-rank changes and nothing else, and
a merged model (`merge`), which takes every change. Only headers are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from codellama.errors import CheckpointError
from codellama.files.peft_adapter import MOST_RANK, PeftAdapter, PeftModule
from codellama.files.safetensors_header import SafeTensor
from codellama.weights.config import LlamaConfig
from codellama.weights.tensors import Expected, expected_tensors

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"

_RESIZE = (
    "merge the adapter and the new tokens into the model with peft and transformers "
    "(merge_and_unload, save_pretrained) and convert what that saves"
)


@dataclass(frozen=True)
class LowRank:
    """The change `strength / rank * B A` of a matrix, of an embedding its transpose.

    With `magnitude` (DoRA) the sum of matrix and change is scaled to these lengths: row by row, of an
    embedding column by column, as peft does it.
    """

    expected: Expected
    a: SafeTensor
    b: SafeTensor
    strength: float
    magnitude: SafeTensor | None = None

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def scale(self) -> float:
        return self.strength / self.rank

    @property
    def embedding(self) -> bool:
        return self.expected.name == EMBEDDING


@dataclass(frozen=True)
class Fitted:
    """What an adapter changes, by the names of tensors in a GGUF.

    `whole` are tensors in place of the model's, `frozen` copies of the model's that were stored along,
    `rows` some rows in place of the model's.
    """

    adapter: PeftAdapter
    low_rank: dict[str, LowRank] = field(default_factory=dict)
    whole: dict[str, SafeTensor] = field(default_factory=dict)
    frozen: dict[str, SafeTensor] = field(default_factory=dict)
    rows: dict[str, tuple[tuple[int, ...], SafeTensor]] = field(default_factory=dict)


def fit(adapter: PeftAdapter, config: LlamaConfig) -> Fitted:
    """What `adapter` changes in a model with this configuration.

    Raises:
        CheckpointError: it is one for another model, or has tensors that no Llama model has room for.
    """
    known = {each.hf_name.removesuffix(".weight"): each for each in expected_tensors(config)}
    fitted = Fitted(adapter)
    for module in adapter.modules:
        expected = known.get(module.name)
        if expected is None:
            raise CheckpointError(
                f"{adapter.weights}: the model has no {module.name}{_belongs(adapter)}"
            )
        if expected.name in (EMBEDDING, OUTPUT) and config.tie_word_embeddings:
            raise CheckpointError(
                f"{adapter.weights}: changes {module.name}, and the model has one matrix for "
                "embed_tokens and lm_head"
            )
        _Fit(fitted, expected, module).add()
    return fitted


def _belongs(adapter: PeftAdapter) -> str:
    return f": it was trained on {adapter.base_model}" if adapter.base_model else ""


class _Fit:
    """Adds one module's tensors to `fitted`."""

    def __init__(self, fitted: Fitted, expected: Expected, module: PeftModule) -> None:
        self.fitted = fitted
        self.adapter = fitted.adapter
        self.expected = expected
        self.module = module
        self.left = dict(module.parts)

    def fault(self, message: str, remedy: str = "") -> CheckpointError:
        return CheckpointError(f"{self.adapter.weights}: {self.module.name} {message}", remedy)

    def add(self) -> None:
        for part in ("bias", "lora_bias"):
            if part in self.left:
                raise self.fault(
                    f"has a bias, {self.left[part].name}, for which Llama models have no place",
                    "train it without (bias='none', lora_bias=False)",
                )
        name, shape = self.expected.name, self.expected.shape
        # peft stores a module whose size has changed under two names more.
        original, saved = self._take("original", shape), self._take("saved", shape)
        whole, frozen = self._take("whole", shape) or saved, self._take("frozen", shape) or original
        if whole:
            self.fitted.whole[name] = whole
        elif frozen:
            self.fitted.frozen[name] = frozen
        self._add_rows(name)
        self._add_low_rank(name)
        if self.left:
            raise self.fault(
                f"has {min(self.left.values(), key=str).name} without what belongs to it"
            )

    def _take(self, part: str, shape: tuple[int, ...]) -> SafeTensor | None:
        tensor = self.left.pop(part, None)
        if tensor is None or tensor.shape == shape:
            return tensor
        same_width = tensor.shape[1:] == shape[1:] and self.expected.name in (EMBEDDING, OUTPUT)
        resized = same_width and part in ("whole", "frozen", "original", "saved")
        wrong = f"has {tensor.name} of shape {list(tensor.shape)}, the model makes it {list(shape)}"
        if resized:
            raise self.fault(f"{wrong}: its vocabulary was changed", _RESIZE)
        raise self.fault(wrong + _belongs(self.adapter))

    def _add_rows(self, name: str) -> None:
        ids = self.adapter.token_indices.get(self.module.name.rpartition(".")[2], ())
        tokens = self._take("tokens", (len(ids), *self.expected.shape[1:]))
        if tokens is None:
            return
        if ids and max(ids) >= self.expected.shape[0]:
            raise self.fault(f"trains token {max(ids)}, which the model does not have", _RESIZE)
        self.fitted.rows[name] = ids, tokens

    def _add_low_rank(self, name: str) -> None:
        embedding = name == EMBEDDING
        first, second = ("embedding_a", "embedding_b") if embedding else ("a", "b")
        if first not in self.left or second not in self.left:
            return
        if len(self.expected.shape) != 2:
            raise self.fault("is a vector, which cannot change by low rank")
        rows, columns = reversed(self.expected.shape) if embedding else self.expected.shape
        rank = (*self.left[first].shape, 0)[0]
        if not 1 <= rank <= MOST_RANK:
            raise self.fault(f"has rank {rank}: 1 to {MOST_RANK} are possible")
        a, b = self._take(first, (rank, columns)), self._take(second, (rows, rank))
        assert a is not None and b is not None, "both are there, see above"
        length = self.expected.shape[1 if embedding else 0]
        magnitude = self._take("magnitude", (length,))
        if self.adapter.dora and magnitude is None:
            raise self.fault("has no lora_magnitude_vector, though use_dora is set")
        strength = self.adapter.strength(self.module.name, rank)
        self.fitted.low_rank[name] = LowRank(self.expected, a, b, strength, magnitude)
