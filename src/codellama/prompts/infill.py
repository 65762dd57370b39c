"""Prefix + suffix → token ids for filling in the middle, as Meta's `infilling_prompt_tokens` makes them."""

from __future__ import annotations

from codellama.errors import UnsupportedError, check_text
from codellama.params import Prompt, SpecialTags
from codellama.prompts.chat import (
    FIM_TAGS,
    Vocabulary,
    encode_parts,
    live_tags,
    reject_tags,
    split_tags,
)


class InfillFormat:
    """The order prefix, suffix, middle: BOS, PRE, prefix, SUF, suffix, MID; ends with EOT.

    The suffix is tokenized without the space that SentencePiece implies. Windows line ends become
    plain ones: a CR right behind a tag is known to confuse these models.
    """

    def __init__(self, vocabulary: Vocabulary, special_tags: SpecialTags = "literal") -> None:
        """Raises UnsupportedError if the vocabulary has no infill tokens."""
        ids = [vocabulary.token_id("▁" + tag) for tag in FIM_TAGS]
        if None in ids:
            missing = FIM_TAGS[ids.index(None)]
            raise UnsupportedError(
                f"the model cannot infill: its vocabulary has no {missing} token"
            )
        self._pre, self._suf, self._mid, self._eot = (i for i in ids if i is not None)
        self._vocabulary = vocabulary
        self._policy = special_tags
        self._tags = live_tags(vocabulary)

    def encode(self, prefix: str, suffix: str) -> Prompt:
        """The prompt that asks for the text between `prefix` and `suffix`."""
        before = encode_parts(self._vocabulary, self._parts(prefix, "prefix")) if prefix else []
        after: list[int] = []
        for part in self._parts(suffix, "suffix"):
            after += self._vocabulary.encode(part, raw=True)
        tokens = [self._vocabulary.bos, self._pre, *before, self._suf, *after, self._mid]
        return Prompt(tuple(tokens), frozenset({self._eot}))

    def _parts(self, text: str, name: str) -> list[str]:
        check_text(text, name)
        if self._policy == "reject":
            reject_tags(text, FIM_TAGS, name)
        return split_tags(text.replace("\r\n", "\n"), self._tags)
