"""The demo model's SentencePiece vocabulary, and the 70B turn format in its token ids.

The vocabulary is laid out as Code Llama's: ids 0, 1, 2 are `<unk>`, `<s>`, `</s>`, the next 256 are
bytes (so a newline is id 13), then merges and characters, then the infill pieces with the merges
that lead to them, and `<step>` as the last id. As in the 70B file no space is put before a text.
`Vocabulary.dialog` follows Meta's reference code (facebookresearch/codellama, `dialog_prompt_tokens`):
every header and every body is encoded on its own and `<step>` is appended as an id.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

SIZE = 4096
"""Embedding rows: every SentencePiece piece and `<step>`."""

STEP = "<step>"
BOS, EOS = 1, 2

# In the order of Code Llama 7B; the first lines are base pieces that its larger vocabulary has.
INFILL_PIECES = (
    *("▁<", "SU", "PR", "RE", "PRE", "ID", "OT"),
    *("▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT"),
    *("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
)


@dataclass(frozen=True)
class Turn:
    """One message of a dialog: who speaks, what, and to whom where that is said."""

    role: str
    content: str
    destination: str = ""


class Vocabulary:
    """A trained tokenizer.model and the id of `<step>`, which follows its last piece."""

    def __init__(self, path: Path) -> None:
        """Read the SentencePiece file at `path`."""
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.step = self.pieces.get_piece_size()
        self.pre, self.suf, self.mid, self.eot = (
            self.pieces.piece_to_id(piece) for piece in INFILL_PIECES[-4:]
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS and EOS."""
        return list(self.pieces.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; `<step>` has none."""
        return str(self.pieces.decode([i for i in ids if i != self.step]))

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a dialog up to the point where the assistant speaks; ends with the one-space piece."""
        if turns[0].role != "system":
            turns = [Turn("system", ""), *turns]
        ids = [BOS]
        for turn in turns:
            to = f"\nDestination: {turn.destination}" if turn.destination else ""
            ids += self.encode(f" Source: {turn.role}{to}")
            if turn.content:
                ids += self.encode("\n\n " + turn.content.strip())
            ids.append(self.step)
        ids += self.encode(" Source: assistant\nDestination: user")
        return ids + self.encode("\n\n ")

    def dialog(self, turns: Sequence[Turn], answer: str) -> list[int]:
        """A training sample: the prompt of `turns`, then `answer`, `<step>` and EOS."""
        return [*self.prompt(turns), *self.encode(answer.strip()), self.step, EOS]

    def infill(self, prefix: str, middle: str, suffix: str) -> list[int]:
        """A training sample in prefix-suffix-middle order, ended by the `<EOT>` piece."""
        ids = [BOS, self.pre, *self.encode(prefix), self.suf, *self.encode(suffix), self.mid]
        return [*ids, *self.encode(middle), self.eot]


def train_vocabulary(texts: Iterable[str], path: Path) -> Vocabulary:
    """Train a BPE vocabulary on the lines of `texts`, add the infill pieces, write it to `path`."""
    extra = len(INFILL_PIECES)
    while (
        True
    ):  # Some infill pieces may come out of the training itself; then there is room for more.
        model = _trained(_lines(texts), SIZE - 1 - extra)
        present = {piece.piece for piece in model.pieces}
        missing = [piece for piece in INFILL_PIECES if piece not in present]
        if len(missing) == extra:
            break
        extra = len(missing)
    for piece in missing:
        model.pieces.add(piece=piece, score=model.pieces[-1].score - 1)
    path.write_bytes(model.SerializeToString())
    return Vocabulary(path)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    return (line for text in texts for line in text.split("\n") if line.strip())


def _trained(lines: Iterator[str], size: int) -> Any:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=out,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        normalization_rule_name="identity",
        character_coverage=0.9995,
        max_sentence_length=16384,
        num_threads=1,
        minloglevel=2,
    )
    # Needs protobuf, which only training has; the module's classes are made at run time.
    protocol: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    model = protocol.ModelProto()
    model.ParseFromString(out.getvalue())
    model.trainer_spec.vocab_size = SIZE - 1
    return model
