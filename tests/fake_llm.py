"""A `LanguageModel` without a model: what it says is scripted, everything around it is real.

Tokens are bytes: id 3 + b stands for the byte b, 0 to 2 are `<unk>`, `<s>` and `</s>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from codellama.compat.llama import LlamaCompatible
from codellama.devices.plan import LoadPlan
from codellama.engine import EngineStatus
from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason, Timings, Usage
from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.native.hooks import TokenHooks
from codellama.params import (
    ContextPolicy,
    Message,
    ModelConfig,
    Pooling,
    Prompt,
    SamplingOptions,
    SamplingParams,
    Tools,
)
from codellama.prompts.chat import check_messages
from codellama.prompts.history import drop_oldest
from codellama.running.adapters import Adapter, AdapterTable, LoraScales
from codellama.running.collected import n_candidates
from codellama.running.completion import Completion, Deliver, begin, delivery
from codellama.running.core import SlotActions
from codellama.running.embedding import Embeddings
from codellama.running.kv_file import StaleStateError
from codellama.running.mailbox import Mailbox

N_VOCAB = 259
TIMINGS = Timings(prompt_s=0.5, decode_s=1.0, prompt_n=4, decode_n=2)


def ids(text: str) -> tuple[int, ...]:
    """The fake token ids of a text."""
    return tuple(3 + byte for byte in text.encode())


def say(
    *texts: str, end: FinishReason = FinishReason.STOP, stop: str | int | None = 2
) -> list[Delta]:
    """A delta per text, with logprobs of -0.5 and an alternative "?" of -1.5; the last one is final."""
    deltas = [
        Delta(
            text,
            ids(text),
            tuple(TokenLogprob(t, -0.5, ((t, -0.5), (66, -1.5))) for t in ids(text)),
        )
        for text in texts
    ]
    usage = Usage(0, sum(len(d.tokens) for d in deltas), 1)
    return [*deltas, Delta(finish_reason=end, stop=stop, usage=usage, timings=TIMINGS)]


class FakeTokenizer:
    """Bytes as tokens."""

    n_vocab = N_VOCAB
    bos = 1
    eos = 2
    add_space_prefix = False
    eog_tokens = frozenset({2})

    def encode(self, text: str, *, add_bos: bool = False, parse_special: bool = False) -> list[int]:
        if parse_special and text == "</s>":
            return [2]
        return [1] * add_bos + list(ids(text))

    def piece(self, token: int) -> bytes:
        if not 0 <= token < N_VOCAB:
            raise InvalidRequestError(f"token id {token} is not in the vocabulary", "tokens")
        return bytes([token - 3]) if token >= 3 else b""

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def token_text(self, token: int) -> str:
        return ["<unk>", "<s>", "</s>"][token]


class FakeChatFormat:
    """`role: content` lines."""

    def render(self, messages: Iterable[Message], tools: Tools | None = None) -> str:
        messages = check_messages(messages, "literal", tools)
        return "".join(f"{m['role']}: {m['content']}\n" for m in messages)


@dataclass(frozen=True)
class Call:
    """One `generate`."""

    prompt: Prompt
    n: int
    params: SamplingParams
    echo: bool
    hooks: TokenHooks | None = None


class FakeLLM(LlamaCompatible):
    """Answers every request with the script; `hold` keeps the last delta back until `release`."""

    def __init__(self, script: Sequence[Delta] = (), *, hold: bool = False) -> None:
        self.name = "fake"
        self.path = Path("fake.gguf")
        self.opened_plan: LoadPlan | None = None
        self.metadata: dict[str, Any] = {}
        self.n_ctx = 64
        self.config = ModelConfig()
        self.tokenizer = FakeTokenizer()
        self.chat_format: FakeChatFormat | None = FakeChatFormat()
        self.script = list(script) or say("hel", "lo")
        self.hold = hold
        self.calls: list[Call] = []
        self.cancelled: set[str] = set()
        self.closed = False
        self.dead = False
        self.warm = False
        self.error: Exception | None = None
        self.table = AdapterTable([Adapter(i, f"{n}.gguf", 1.0) for i, n in enumerate("ab")])
        self._held: list[Callable[[], None]] = []

    def chat_prompt(
        self,
        messages: str | Iterable[Message],
        *,
        context_policy: ContextPolicy | None = None,
        max_tokens: int | None = None,
        tools: Tools | None = None,
    ) -> Prompt:
        assert self.chat_format is not None
        assert not isinstance(messages, str)
        messages = list(messages)
        dropped: list[Message] = []
        if context_policy == "drop_oldest":
            messages, dropped = drop_oldest(messages, lambda kept: len(kept) <= 3)
        text = self.chat_format.render(messages, tools)
        return Prompt(ids(text), dropped=tuple(dropped), tools=tools)

    def complete_prompt(self, prompt: str | Sequence[int]) -> Prompt:
        return Prompt((1, *ids(prompt)) if isinstance(prompt, str) else tuple(prompt))

    def infill_prompt(self, prefix: str, suffix: str) -> Prompt:
        return Prompt(ids(f"<{prefix}|{suffix}>"))

    def chat(
        self,
        messages: str | Iterable[Message],
        *,
        n: int = 1,
        context_policy: ContextPolicy | None = None,
        tools: Tools | None = None,
        **params: Unpack[SamplingOptions],
    ) -> Completion:
        prompt = self.chat_prompt(messages, context_policy=context_policy, tools=tools)
        return self.generate(prompt, n=n, params=SamplingParams.of(**params))

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        n: int = 1,
        best_of: int | None = None,
        echo: bool = False,
        **params: Unpack[SamplingOptions],
    ) -> Completion:
        sampling = SamplingParams.of(**params)
        tokens = self.complete_prompt(prompt)
        return self.generate(tokens, n=n, params=sampling, echo=echo, best_of=best_of)

    def infill(
        self, prefix: str, suffix: str, *, n: int = 1, **params: Unpack[SamplingOptions]
    ) -> Completion:
        sampling = SamplingParams.of(**params)
        return self.generate(self.infill_prompt(prefix, suffix), n=n, params=sampling)

    def embeddings(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling | None = None,
        normalize: bool | int = True,
    ) -> Future[Embeddings]:
        raise UnsupportedError("the script has no vectors")

    def generate(
        self,
        prompt: Prompt,
        *,
        params: SamplingParams,
        n: int = 1,
        echo: bool = False,
        best_of: int | None = None,
        deliver: Deliver | None = None,
        reports: bool = False,
        hooks: TokenHooks | None = None,
    ) -> Completion:
        if self.error is not None:
            raise self.error
        self.table.scales(params.lora)  # raises if there is no such adapter
        self.calls.append(Call(prompt, n, params, echo, hooks))
        candidates = n_candidates(n, best_of)
        if best_of is not None:
            params = replace(params, logprobs=params.logprobs or 0)
        script = [self._finished(delta, prompt, params) for delta in self.script]
        now, later = (script[:-1], script[-1:]) if self.hold else (script, [])
        mailbox: Mailbox[tuple[int, Delta]] = Mailbox()
        say_to = deliver or delivery(mailbox)

        def put(deltas: Sequence[Delta]) -> None:
            for delta in deltas:
                for index in range(candidates):
                    say_to(index, self.of_choice(index, delta))

        def cancel() -> None:
            self.cancelled.add(completion.id)
            put([Delta(finish_reason=FinishReason.CANCELLED, usage=Usage(), timings=TIMINGS)])

        used = params.with_defaults(self.config)
        own = mailbox if deliver is None else None
        completion = Completion(
            prompt,
            candidates,
            own,
            cancel,
            params=used,
            scored=echo,
            keep=None if best_of is None else n,
        )
        if echo:
            begin(say_to, candidates, self.tokenizer.decode(prompt.tokens))
        put(now)
        self._held.append(lambda: put(later))
        return completion

    def of_choice(self, index: int, delta: Delta) -> Delta:
        """What choice number `index` says; all say the same."""
        return delta

    @property
    def plan(self) -> LoadPlan:
        assert self.opened_plan is not None, "a test that wants a plan sets it"
        return self.opened_plan

    @property
    def problem(self) -> str | None:
        return "the engine has stopped" if self.dead else None

    @property
    def slots(self) -> SlotActions:
        raise AssertionError("the script has no slots")

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        return self.table.adapters

    def set_adapters(self, lora: LoraScales) -> None:
        self.table.set_defaults(lora)

    def release(self) -> None:
        """Let the held answers end."""
        for end in self._held:
            end()

    def save_state(
        self, tokens: Sequence[int], path: str | Path, *, lora: LoraScales | None = None
    ) -> bool:
        return False

    def load_state(self, path: str | Path) -> None:
        raise StaleStateError("the script has no states")

    def warm_up(self) -> None:
        self.warm = True

    def status(self) -> EngineStatus:
        return EngineStatus(n_slots=1, dead=self.dead)

    def close(self) -> None:
        self.closed = True

    @staticmethod
    def _finished(delta: Delta, prompt: Prompt, params: SamplingParams) -> Delta:
        if params.logprobs is None:
            delta = delta._replace(logprobs=())
        if delta.usage is None:
            return delta
        return delta._replace(usage=replace(delta.usage, prompt_tokens=len(prompt.tokens)))
