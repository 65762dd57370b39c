"""A conversation: the messages so far, and the next answer.

A `Session` keeps the turns of one chat with one `LLM`. An answer becomes part of the conversation when
it ends, also when it is cancelled half-way: what was said stays said. A question that got no answer at
all, or whose answer failed, can be asked again but is no part of it. A session is used by one thread at a
time, but for `save_state`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.errors import CodeLlamaError, InvalidRequestError
from codellama.params import ContextPolicy, Message, SamplingParams
from codellama.params.options import SamplingOptions
from codellama.running.collected import Collected
from codellama.running.kv_file import StaleStateError

if TYPE_CHECKING:
    from codellama.running.adapters import LoraScales
    from codellama.running.completion import Completion
    from codellama.running.language_model import LanguageModel

log = logging.getLogger("codellama.session")


class Answer:
    """An answer as it comes: iterate it for text, or wait for `.text()`. Read it once.

    Leaving the loop early cancels it and keeps what was read. `finish_reason`, `usage` and `timings`
    are known at its end; `tokens` are the ids so far, `dropped` is the number of older messages that
    the model did not see. `asked` is the conversation with the question at its end.
    """

    def __init__(
        self, completion: Completion, asked: list[Message], keep: Callable[[str], None]
    ) -> None:
        """`keep` gets the whole text when the answer ends; the empty text if it failed."""
        self._completion = completion
        self.asked = asked
        self._keep = keep
        self._collected = Collected()
        self.dropped = len(completion.dropped)

    def __repr__(self) -> str:
        return f"<Answer by {self._completion!r}>"

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self._completion.prompt.tokens)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it goes on."""
        return self._collected.finish_reason

    @property
    def usage(self) -> Usage:
        """Token counts."""
        return self._collected.usage

    @property
    def timings(self) -> Timings:
        """Seconds for the prompt and the answer."""
        return self._collected.timings

    @property
    def tokens(self) -> list[int]:
        """The ids so far."""
        return self._collected.tokens

    def events(self) -> Iterator[Delta]:
        """Deltas until the final one. Those without text say how much of the prompt has been `processed`."""
        failed = False
        try:
            for _, delta in self._completion.events():
                self._collected.add(delta)
                yield delta
        except CodeLlamaError:
            failed = True
            raise
        finally:
            self._keep("" if failed else self._collected.text)

    def __iter__(self) -> Iterator[str]:
        for delta in self.events():
            if delta.text:
                yield delta.text

    def text(self) -> str:
        """Wait for the end and return all of it."""
        return "".join(self)

    def cancel(self) -> None:
        """End it at the engine's next step; the loop that reads it then ends as usual."""
        self._completion.cancel()


class Session:
    """A conversation with `llm`, which begins with the system text `system` if there is one.

    `notice` says what a loaded conversation could not bring along. `context_policy` is that of
    `LLM.chat`: with "drop_oldest" a long conversation goes on without its oldest turns, which stay
    in `messages`; an answer's `dropped` tells how many the model did not see.
    """

    def __init__(
        self,
        llm: LanguageModel,
        system: str | None = None,
        context_policy: ContextPolicy | None = None,
    ) -> None:
        self.llm = llm
        self.context_policy: ContextPolicy | None = context_policy
        self._system = system
        self._turns: list[Message] = []
        self._question: str | None = None
        self._answered = False
        self._running: Answer | None = None
        self._tokens: tuple[int, ...] = ()  # of the latest prompt and its answer
        self._lora: LoraScales | None = None  # what they were decoded with
        self.notice: str | None = None

    @property
    def system(self) -> str | None:
        """The system text. Setting it starts the conversation afresh."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self.reset()
        self._system = text

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, with the system turn: a new list."""
        return self._with_system(self._turns)

    def ask(self, text: str, **params: Unpack[SamplingOptions]) -> Answer:
        """Ask the next question; `params` are fields of `SamplingParams`.

        Raises what `LLM.chat` raises; the conversation is then unchanged. An answer that is still
        running is cancelled and only kept if its loop is still read.
        """
        return self._ask(self._turns, text, params)

    def regen(self, **params: Unpack[SamplingOptions]) -> Answer:
        """Ask the last question again; the new answer takes the place of the old one.

        Raises InvalidRequestError if nothing has been asked yet.
        """
        return self.replace(self._last_question(), **params)

    def replace(self, text: str, **params: Unpack[SamplingOptions]) -> Answer:
        """Ask `text` in the place of the last question; the answer takes the place of the old one.

        Raises InvalidRequestError if nothing has been asked yet.
        """
        self._last_question()
        before = self._turns[:-2] if self._answered else self._turns
        return self._ask(before, text, params)

    def undo(self) -> str:
        """Take back the last question and its answer; returns the question. A running answer is cancelled.

        Raises InvalidRequestError if nothing has been asked yet.
        """
        text = self._last_question()
        self._stop()
        if self._answered:
            del self._turns[-2:]
        self._question = self._turns[-2]["content"] if self._turns else None
        self._answered = bool(self._turns)
        return text

    @property
    def question(self) -> str | None:
        """The last question, answered or not."""
        return self._question

    def _last_question(self) -> str:
        if self._question is None:
            raise InvalidRequestError("there is no question to ask again", "messages")
        return self._question

    def reset(self) -> None:
        """Drop all turns; the system text stays. A running answer is cancelled."""
        self._stop()
        self._turns, self._question, self._answered = [], None, False

    def save(self, path: str | os.PathLike[str], *, kv: bool = False) -> None:
        """Write the conversation as JSON: the model's name and the messages.

        With `kv` the model's KV state of it goes to a file beside it, `path` with ".kv" appended (a
        few MiB for a small model, hundreds for a large one), so that `load` need not decode it again.

        Raises OSError if the disk is full, say: then what was there before still is, or only the KV state
        is missing.
        """
        path = Path(path)
        write_document(path, self.document())
        state_path = kv_path(path)
        if not kv or not self.save_state(state_path):
            state_path.unlink(missing_ok=True)  # that of an earlier save is of no use any more

    def document(self) -> dict[str, Any]:
        """What `save` writes. A question that waits for its answer is the last message."""
        messages = self.messages
        if self._question is not None and not self._answered:
            messages.append(Message(role="user", content=self._question))
        return {"model": self.llm.name, "messages": messages}

    def save_state(self, path: str | Path) -> bool:
        """Write the model's KV state of the conversation; False if there is none. Any thread may do this.

        Raises OSError.
        """
        return bool(self._tokens) and self.llm.save_state(self._tokens, path, lora=self._lora)

    @classmethod
    def load(cls, path: str | os.PathLike[str], llm: LanguageModel) -> Session:
        """The conversation that `save` wrote to `path`, to go on with `llm` (any model will do).

        A KV state beside it is used if it is of these weights and settings; else `notice` says
        why not, and the conversation is decoded again. Raises InvalidRequestError if the file is
        not such a document.
        """
        turns = read_document(path)
        session = cls(llm)
        if turns and turns[0]["role"] == "system":
            session._system = turns.pop(0)["content"]
        session._answered = len(turns) % 2 == 0 and bool(turns)
        if len(turns) % 2:
            session._question = turns.pop()["content"]
        elif turns:
            session._question = turns[-2]["content"]
        session._turns = turns
        session._load_state(kv_path(Path(path)))
        return session

    def _load_state(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            self.llm.load_state(path)
        except StaleStateError as error:
            self.notice = f"the conversation will be decoded again: {error}"
            log.warning("%s", self.notice)

    def _with_system(self, turns: list[Message]) -> list[Message]:
        head = [] if self._system is None else [Message(role="system", content=self._system)]
        return head + turns

    def _ask(self, before: list[Message], text: str, params: SamplingOptions) -> Answer:
        question = Message(role="user", content=text)
        messages = [*self._with_system(before), question]
        sampling = SamplingParams.of(**params)
        prompt = self.llm.chat_prompt(
            messages, context_policy=self.context_policy, max_tokens=sampling.max_tokens
        )
        completion = self.llm.generate(prompt, params=sampling, reports=True)
        self._stop()
        self._turns, self._question, self._answered = list(before), text, False

        def keep(said: str) -> None:
            if said and self._running is answer and not self._answered:
                self._tokens = (*completion.prompt.tokens, *answer.tokens)
                self._lora = params.get("lora")
                self._turns += [question, Message(role="assistant", content=said)]
                self._answered = True

        answer = self._running = Answer(completion, messages, keep)
        return answer

    def _stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            self._running = None


def kv_path(path: Path) -> Path:
    """The file with the KV state of the conversation in `path`."""
    return path.with_name(path.name + ".kv")


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write a conversation as JSON, all of it or nothing. Raises OSError."""
    part = path.with_name(path.name + ".part")
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_document(path: str | os.PathLike[str]) -> list[Message]:
    """The messages of a saved conversation: perhaps a system turn, then user and assistant take turns.

    Raises InvalidRequestError if it is none.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        turns: list[Message] = [
            {"role": str(m["role"]), "content": str(m["content"])} for m in document["messages"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidRequestError(
            "{path} is not a saved conversation: {reason!r}", path=path, reason=error
        ) from error
    roles = [turn["role"] for turn in turns]
    if roles[:1] == ["system"]:
        del roles[0]
    if roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        raise InvalidRequestError(
            "{path}: after the system turn, user and assistant take turns", path=path
        )
    return turns
