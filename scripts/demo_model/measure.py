"""What the demo model can do as a GGUF: bits per byte on held-out modules, its own questions, and edits.

Everything here goes through this project's own converter, prompts and engine.
"""

from __future__ import annotations

import difflib
import lzma
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import texts
from codellama import LLM, FinishReason, Message
from codellama.devices.contexts import context_settings
from codellama.engine.batch import Batch
from codellama.native.context import Context
from codellama.native.model import Model
from codellama.params import ModelConfig
from demo_model import corpus
from demo_model.samples import EDIT_INTRODUCTION, JAVASCRIPT
from demo_model.written import Question, questions

WINDOW = 1024
MAX_TOKENS = 500
AT_ONCE = 64


@dataclass(frozen=True)
class Answered:
    """A greedy answer; `ended` says that the model closed it with `<step>` itself."""

    question: Question
    text: str
    ended: bool

    @property
    def right(self) -> bool:
        """Whether it is the written answer, letter by letter."""
        return self.text == self.question.answer


def fifty_questions() -> list[Question]:
    """Fifty questions, spread over all topics."""
    every = questions()
    return [every[i * len(every) // 50] for i in range(50)]


def answers(llm: LLM, asked: Sequence[Question], wording: int = 0) -> list[Answered]:
    """Ask every question in one of its wordings; JavaScript ones with the model card's system text."""
    step = llm.tokenizer.token_id("<step>")
    result = []
    for first in range(0, len(asked), AT_ONCE):
        part = asked[first : first + AT_ONCE]
        running = [
            llm.chat(_messages(question, wording), temperature=0.0, max_tokens=MAX_TOKENS)
            for question in part
        ]
        for question, completion in zip(part, running, strict=True):
            choice = completion.result().choices[0]
            ended = choice.finish_reason == FinishReason.STOP and choice.stop == step
            result.append(Answered(question, choice.text, ended))
    return result


@dataclass(frozen=True)
class Edited:
    """A greedy answer to a request of the benchmark of drafts, and the answer that is right."""

    expected: str
    text: str
    ended: bool

    @property
    def right(self) -> bool:
        """Whether it is the expected answer, letter by letter."""
        return self.text == self.expected

    @property
    def lines_right(self) -> tuple[int, int]:
        """How many of the expected lines of code the answer has in their order, and how many there are."""
        wanted, got = (_code_lines(text) for text in (self.expected, self.text))
        matcher = difflib.SequenceMatcher(None, wanted, got, autojunk=False)
        return sum(block.size for block in matcher.get_matching_blocks()), len(wanted)


def edit_requests(count: int) -> list[str]:
    """Different requests of `scripts/bench_server.py --drafts`: renames of functions that are held out."""
    found: dict[str, None] = {}
    index = 0
    while len(found) < count:
        found.setdefault(texts.edit(index, 0))
        index += 1
    return list(found)


def expected_edit(request: str) -> str:
    """The right answer to a request of `edit_requests`."""
    found = re.fullmatch(
        r"Rename the function to (\w+)\n\n```python\ndef \w+(\(.*)```", request, re.DOTALL
    )
    if not found:
        raise ValueError(f"request: not one of the benchmark's: {request!r}")
    return f"{EDIT_INTRODUCTION}\n\n```python\ndef {found[1]}{found[2]}```"


def edited(llm: LLM, requests: Sequence[str]) -> list[Edited]:
    """Ask for every edit."""
    step = llm.tokenizer.token_id("<step>")
    running = [
        llm.chat([{"role": "user", "content": request}], temperature=0.0, max_tokens=MAX_TOKENS)
        for request in requests
    ]
    result = []
    for request, completion in zip(requests, running, strict=True):
        choice = completion.result().choices[0]
        ended = choice.finish_reason == FinishReason.STOP and choice.stop == step
        result.append(Edited(expected_edit(request), choice.text, ended))
    return result


def lines_right(answers: Sequence[Edited]) -> float:
    """The share of all expected lines of code that are in the answers."""
    right, wanted = zip(*(answer.lines_right for answer in answers), strict=True)
    return float(sum(right) / sum(wanted))


@dataclass(frozen=True)
class HeldOut:
    """What a file makes of the held-out modules: bits per byte, and its best guess at every token."""

    bits_per_byte: float
    top_tokens: NDArray[np.int64]

    def agreement(self, other: HeldOut) -> float:
        """Share of the positions where both guess the same token."""
        return float((self.top_tokens == other.top_tokens).mean())


def held_out(path: Path) -> HeldOut:
    """Run the GGUF `path` over the held-out modules, in windows begun with BOS."""
    texts = _held_out_texts()
    size = sum(len(text.encode()) for text in texts)
    nats, tops = zip(*_chunks(path, texts), strict=True)
    return HeldOut(sum(nats) / math.log(2) / size, np.concatenate(tops))


def xz_bits_per_byte() -> float:
    """What `xz -9e` reaches on the held-out modules, one after the other."""
    data = "".join(_held_out_texts()).encode()
    packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    return 8 * len(packed) / len(data)


def _code_lines(text: str) -> list[str]:
    _, _, rest = text.partition("```python\n")
    return rest.partition("```")[0].splitlines()


def _held_out_texts() -> list[str]:
    return [corpus.read(path) for path in corpus.held_out_files()]


def _messages(question: Question, wording: int) -> list[Message]:
    messages: list[Message] = [{"role": "user", "content": question.wordings[wording]}]
    if question.topic == "javascript":
        messages.insert(0, {"role": "system", "content": JAVASCRIPT})
    return messages


def _chunks(path: Path, texts: Sequence[str]) -> Iterator[tuple[float, NDArray[np.int64]]]:
    config = ModelConfig(n_seq_max=1)
    with Model(path) as model:
        context = Context(model, context_settings(config, WINDOW))
        for text in texts:
            ids = model.tokenizer.encode(text)
            for first in range(0, len(ids), WINDOW - 1):
                window = [model.tokenizer.bos, *ids[first : first + WINDOW - 1]]
                context.clear()
                for start in range(0, len(window) - 1, config.max_outputs):
                    yield _chunk(context, window, start, config.max_outputs)
        context.close()


def _chunk(
    context: Context, window: Sequence[int], start: int, length: int
) -> tuple[float, NDArray[np.int64]]:
    """What the tokens after `length` positions from `start` on cost, in nats, and the best guesses."""
    inputs = list(window[start : min(start + length, len(window) - 1)])
    batch = Batch(output_rows=list(range(len(inputs))))
    batch.add(inputs, start, 0)
    context.run(batch)
    logits = np.stack([context.logits(row) for row in batch.output_rows])
    highest = logits.max(axis=1)
    log_sums = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))
    targets = window[start + 1 : start + 1 + len(inputs)]
    nats = float((log_sums - logits[batch.output_rows, targets]).sum())
    return nats, logits.argmax(axis=1)
