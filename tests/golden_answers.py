"""Answers byte by byte: every dialect, whole and streamed, from a scripted model with fixed ids and times.

`tests/data/answers` has a file per case. `python -m tests.golden_answers` writes them anew; whoever does so
says in the commit why the bytes changed.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codellama import errors
from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason
from codellama.running.completion import Completion
from codellama.server.config import ServerConfig
from tests.fake_llm import FakeLLM, ids, say
from tests.live_server import Live, running

FOLDER = Path(__file__).parent / "data" / "answers"
PING = b":\n\n"
MESSAGES = [{"role": "user", "content": "hi"}]
DIALOG = [
    {"role": "system", "content": "be brief"},
    *({"role": role, "content": f"{role} {i}"} for i in range(2) for role in ("user", "assistant")),
    {"role": "user", "content": "and now?"},
]


class GoldenLLM(FakeLLM):
    """Numbers its completions and knows no clock. Of several choices, the later ones are likelier, but the
    last one is the least likely."""

    def __init__(self, script: list[Delta], *, add_space_prefix: bool = False) -> None:
        super().__init__(script)
        self.n_choices = 1
        self.tokenizer.add_space_prefix = add_space_prefix

    def generate(self, *args: Any, **options: Any) -> Completion:
        self.n_choices = options.get("n", 1)
        completion = super().generate(*args, **options)
        completion.id = f"{len(self.calls):032x}"
        completion.created = 1_700_000_000
        return completion

    def of_choice(self, index: int, delta: Delta) -> Delta:
        if index == 0:
            return delta
        drift = -2.0 if index == self.n_choices - 1 else 0.125 * index
        changed = (replace(entry, logprob=entry.logprob + drift) for entry in delta.logprobs)
        text = delta.text and f"{delta.text}{index}"
        return delta._replace(text=text, logprobs=tuple(changed))


def scored(prompt: tuple[int, ...]) -> Delta:
    """What comes first if a prompt is scored."""
    entries = [TokenLogprob(token, -0.25 * i, ((66, -3.0),)) for i, token in enumerate(prompt)]
    return Delta(logprobs=(TokenLogprob(prompt[0], math.nan), *entries[1:]))


def broken(reason: FinishReason | None, error: Exception | None) -> list[Delta]:
    """An answer that ends before its time."""
    return [*say("hel")[:1], Delta(finish_reason=reason, error=error)]


SCRIPTS: dict[str, Callable[[], list[Delta]]] = {
    "hello": lambda: say("hel", "lo\n"),
    "cut": lambda: say("hel", "lo", end=FinishReason.LENGTH, stop=None),
    "stop string": lambda: say("hel", "", stop="END"),
    "nothing": lambda: say(),
    "half a character": lambda: [
        *say("a")[:1],
        Delta("", ids("é")[:1], (TokenLogprob(ids("é")[0], -0.5, ((66, -math.inf),)),)),
        Delta("é", ids("é")[1:], (TokenLogprob(ids("é")[1], -math.inf),)),
        say()[-1],
    ],
    "with the last text": lambda: [
        *say("hel")[:1],
        say()[-1]._replace(text="lo", tokens=ids("lo"), truncated=True),
    ],
    "scored": lambda: [scored((1, *ids("ab"))), *say("hel", "lo")],
    "failing": lambda: broken(FinishReason.ERROR, errors.DecodeError("decode said 1")),
    "cancelled": lambda: broken(FinishReason.CANCELLED, None),
    "refused": lambda: broken(FinishReason.ERROR, errors.EngineDeadError("no {more}")),
}


@dataclass(frozen=True)
class Case:
    """A request and what the model says: an HTTP body, or the arguments of a call of `llama_cpp.Llama`'s."""

    path: str
    body: dict[str, Any]
    script: str = "hello"
    space: bool = False
    both: bool = True  # whole and as a stream
    hold: bool = False


CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
NATIVE = "/completion"

CASES: dict[str, Case] = {
    "chat": Case(CHAT, {"messages": MESSAGES}),
    "chat-cut": Case(CHAT, {"messages": MESSAGES}, "cut"),
    "chat-n2-usage-logprobs": Case(
        CHAT,
        {
            "messages": MESSAGES,
            "n": 2,
            "logprobs": True,
            "top_logprobs": 2,
            "stream_options": {"include_usage": True},
        },
    ),
    "chat-half-characters": Case(CHAT, {"messages": MESSAGES, "n_probs": 1}, "half a character"),
    "chat-dropped": Case(CHAT, {"messages": DIALOG, "context_policy": "drop_oldest", "n": 2}),
    "chat-failing": Case(CHAT, {"messages": MESSAGES}, "failing"),
    "chat-pinged": Case(CHAT, {"messages": MESSAGES}, hold=True),
    "text": Case(TEXT, {"prompt": "ab"}),
    "text-last-text": Case(TEXT, {"prompt": "ab", "logprobs": 1}, "with the last text"),
    "text-nothing": Case(TEXT, {"prompt": "ab"}, "nothing"),
    "text-two-prompts-n2-usage": Case(
        TEXT, {"prompt": ["ab", "c"], "n": 2, "stream_options": {"include_usage": True}}
    ),
    "text-logprobs": Case(TEXT, {"prompt": "ab", "logprobs": 2, "n": 2}),
    "text-half-characters": Case(TEXT, {"prompt": "ab", "logprobs": 2}, "half a character"),
    "text-echo": Case(TEXT, {"prompt": ["ab", "c"], "echo": True, "n": 2}),
    "text-echo-scored": Case(TEXT, {"prompt": "ab", "echo": True, "logprobs": 1}, "scored"),
    "text-echo-scored-space": Case(
        TEXT, {"prompt": "ab", "echo": True, "logprobs": 1}, "scored", space=True
    ),
    "text-logprobs-space": Case(TEXT, {"prompt": " ab", "logprobs": 0}, space=True),
    "text-suffix": Case(TEXT, {"prompt": "ab", "suffix": "c", "logprobs": 0}),
    "text-best-of": Case(
        TEXT, {"prompt": ["ab", "c"], "n": 2, "best_of": 4, "logprobs": 1}, both=False
    ),
    "text-best-of-plain": Case(TEXT, {"prompt": "ab", "best_of": 3}, both=False),
    "text-best-of-echo": Case(
        TEXT, {"prompt": "ab", "best_of": 3, "echo": True, "logprobs": 0}, "scored", both=False
    ),
    "text-failing": Case(TEXT, {"prompt": "ab"}, "failing"),
    "text-cancelled": Case(TEXT, {"prompt": ["ab", "c"]}, "cancelled"),
    "native": Case(NATIVE, {"prompt": "ab"}),
    "native-probs-tokens": Case(
        NATIVE, {"prompt": "ab", "n_probs": 2, "return_tokens": True, "seed": 7, "n_predict": 9}
    ),
    "native-two-prompts-n2": Case(NATIVE, {"prompt": ["ab", "c"], "n": 2}, "stop string"),
    "native-truncated": Case(NATIVE, {"prompt": "ab"}, "with the last text"),
    "native-fields": Case(
        NATIVE, {"prompt": "ab", "response_fields": ["content", "timings/prompt_n"]}, "cut"
    ),
    "native-failing": Case(NATIVE, {"prompt": "ab"}, "refused"),
    "native-pinged": Case(NATIVE, {"prompt": "ab"}, hold=True),
    "infill": Case(
        "/infill",
        {
            "input_prefix": "a",
            "input_suffix": "b",
            "prompt": "c",
            "input_extra": [{"text": "x", "filename": "f"}],
            "n_probs": 1,
        },
    ),
    "embedded-text": Case("create_completion", {"prompt": "ab", "logprobs": 2}),
    "embedded-text-echo": Case(
        "create_completion", {"prompt": "ab", "logprobs": 1, "echo": True}, "scored"
    ),
    "embedded-suffix": Case("create_completion", {"prompt": "ab", "suffix": "c", "seed": 3}),
    "embedded-chat": Case(
        "create_chat_completion", {"messages": MESSAGES, "logprobs": True, "top_logprobs": 1}
    ),
}


@dataclass
class Answers:
    """A server and, behind it, the model of the case."""

    llm: GoldenLLM
    live: Live

    def bytes_of(self, name: str) -> bytes:
        """The whole answer and the stream, one after the other, with a status line before each."""
        case = CASES[name]
        parts = []
        for stream in (False, True) if case.both else (False,):
            parts.append(b"# stream\n" if stream else b"# whole\n")
            self._prepare(case)
            if case.path.startswith("/"):
                parts.append(self._http(case, stream))
            else:
                parts.append(self._call(case, stream))
        return b"".join(parts)

    def _prepare(self, case: Case) -> None:
        self.llm.__init__(SCRIPTS[case.script](), add_space_prefix=case.space)  # type: ignore[misc]
        self.llm.hold = case.hold

    def _http(self, case: Case, stream: bool) -> bytes:
        if case.hold:
            end = threading.Timer(0.2, self.llm.release)
            end.start()
        response = self.live.post(case.path, **case.body, stream=stream)
        content = response.content
        if case.hold and stream:
            assert content.count(PING) > 1
            content = re.sub(b"(?<=\n\n)(:\n\n)+", PING, content)
        return b"%d %s\n%s\n" % (
            response.status_code,
            response.headers["content-type"].encode(),
            content,
        )

    def _call(self, case: Case, stream: bool) -> bytes:
        answer = getattr(self.llm, case.path)(**case.body, stream=stream)
        chunks = answer if stream else [answer]
        return b"".join(json.dumps(chunk).encode() + b"\n" for chunk in chunks)


def serve() -> Iterator[Answers]:
    """The answers, for as long as the generator is open."""
    llm = GoldenLLM([])
    with running(lambda: llm, ServerConfig(port=0, ping_interval=0.02)) as live:
        yield Answers(llm, live)


def path_of(name: str) -> Path:
    """Where the bytes of a case are kept."""
    return FOLDER / f"{name}.txt"


def main() -> None:
    """Write all files anew."""
    FOLDER.mkdir(exist_ok=True)
    for answers in serve():
        for name in CASES:
            path_of(name).write_bytes(answers.bytes_of(name))


if __name__ == "__main__":
    main()
