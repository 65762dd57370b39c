"""llama-server's own dialect: `/completion`, `/infill`, `/tokenize`, `/detokenize`, `/apply-template`.

Shapes as in llama.cpp's tools/server (README.md, server-schema.cpp, server-task.cpp) with two
differences: sampling defaults are `SamplingParams`'s, and `tokens_cached` counts, as its README says,
the prompt tokens that were reused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import Field

from codellama.compat.logprobs import Piece, Shown, entry_json, shown_logprobs
from codellama.compat.replies import Json, progress_json, select_fields, timings_json
from codellama.engine.batch import TokenLogprob
from codellama.engine.request import Delta, FinishReason
from codellama.errors import InvalidRequestError, check_text
from codellama.params import RANDOM_SEED, ContextPolicy, Prompt, SamplingParams
from codellama.protocol import limits
from codellama.protocol.body import Fields
from codellama.protocol.fields import SamplingFields
from codellama.protocol.known import ALIASES, NEUTRAL
from codellama.protocol.lora import lora_json
from codellama.protocol.prompts import Dialog, dropped_indices, mixed_tokens, parse_prompts
from codellama.protocol.tools import ToolFields
from codellama.running.collected import Collected

if TYPE_CHECKING:
    from codellama.running.completion import Completion
    from codellama.running.language_model import DialogRenderer, LanguageModel, TextTokenizer

# What requests may say of the adaptive-p sampler, which is always off here.
NO_TARGET, ADAPTIVE_DECAY = -1.0, 0.9
SNIPPET = "\n\n--- snippet ---\n\n"  # what llama-server puts before a text of input_extra


class NativeRequest(SamplingFields):
    """The body of `/completion`."""

    aliases = ALIASES | {"n_probs": "logprobs"}

    prompt: Any
    logprobs: int | None = None
    return_tokens: bool = False

    @property
    def echo(self) -> bool:
        """This dialect has no echo."""
        return False

    def prompts(self, llm: LanguageModel) -> list[Prompt]:
        """One prompt for each in the body."""
        return parse_prompts(self.prompt, llm)

    def sampling(self, tokenizer: TextTokenizer) -> SamplingParams:
        """The sampling parameters asked for; `n_probs` 0 means no probabilities."""
        return self.params(tokenizer, logprobs=self.logprobs or None)

    def reply(self, llm: LanguageModel, completions: Sequence[Completion]) -> NativeReply:
        """What turns the answers into a response or its chunks."""
        return native_reply(
            self,
            llm,
            completions,
            return_tokens=self.return_tokens,
            response_fields=tuple(self.response_fields or ()),
        )


class ExtraText(Fields):
    """A piece of another file, for `/infill`; editors add when they saw it."""

    no_effect = frozenset({"time"})
    ignored = {}
    neutral = {}
    place = "input_extra[]."

    text: str
    filename: str = ""


class InfillRequest(NativeRequest):
    """The body of `/infill`. `prompt` continues the prefix; `input_extra` goes before it."""

    prompt: Any = ""
    input_prefix: str
    input_suffix: str
    input_extra: list[ExtraText] = Field(default_factory=list, max_length=limits.EXTRA_TEXTS)

    def prompts(self, llm: LanguageModel) -> list[Prompt]:
        """The one prompt of an infill request."""
        if not isinstance(self.prompt, str):
            raise InvalidRequestError("{param} must be a string", "prompt")
        for i, chunk in enumerate(self.input_extra):
            check_text(chunk.text, "input_extra", f"[{i}]")
        check_text(self.prompt, "prompt")
        check_text(self.input_prefix, "input_prefix")
        check_text(self.input_suffix, "input_suffix")
        extra = "".join(SNIPPET + chunk.text for chunk in self.input_extra)
        return [llm.infill_prompt(extra + self.input_prefix + self.prompt, self.input_suffix)]


class TokenizeRequest(Fields):
    """The body of `/tokenize`. In vLLM's words (`prompt`, `add_special_tokens`) it gets vLLM's answer
    and default: BOS first."""

    aliases = {"prompt": "content", "add_special_tokens": "add_special"}
    neutral = {**NEUTRAL, "return_token_strs": (False,)}

    content: str | list[int | str]
    add_special: bool | None = None
    parse_special: bool = True
    with_pieces: bool = False

    def answer(self, tokenizer: TextTokenizer, n_ctx: int) -> Json:
        """The ids, or with pieces: text where it is UTF-8, bytes where not."""
        vllm = self._spelling["content"] == "prompt"
        content = [self.content] if isinstance(self.content, str) else self.content
        bos = vllm if self.add_special is None else self.add_special
        try:
            tokens = mixed_tokens(content, tokenizer, add_bos=bos, parse_special=self.parse_special)
        except InvalidRequestError as error:
            error.rename(self._spelling["content"])
            raise
        if self.with_pieces:
            return {"tokens": [{"id": t, "piece": _piece(t, tokenizer)} for t in tokens]}
        more = {"count": len(tokens), "max_model_len": n_ctx} if vllm else {}
        return {"tokens": tokens} | more


class DetokenizeRequest(Fields):
    """The body of `/detokenize`."""

    tokens: list[int]

    def answer(self, tokenizer: TextTokenizer) -> Json:
        """The text of the tokens, control tokens by their names: as llama-server's `content` and as
        vLLM's `prompt`."""
        text = spelled_out(self.tokens, tokenizer)
        return {"content": text, "prompt": text}


def tokenizer_info(tokenizer: TextTokenizer, chat_template: str | None) -> Json:
    """vLLM's `/tokenizer_info`, by which evaluation harnesses find out that they need no tokenizer of
    their own; `chat_template` is the one in the file."""
    return {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": tokenizer.token_text(tokenizer.bos),
        "eos_token": tokenizer.token_text(tokenizer.eos),
        "chat_template": chat_template,
    }


class TemplateRequest(Dialog, ToolFields):
    """The body of `/apply-template`.

    With `return_tokens` the answer has the ids that the chat would feed. What `context_policy` leaves out
    for an answer of `max_tokens` is left out of them and named.
    """

    neutral = {k: v for k, v in NEUTRAL.items() if k != "return_tokens"}

    return_tokens: bool = False
    context_policy: ContextPolicy | None = None
    max_tokens: int | None = Field(default=None, ge=0)

    def answer(self, llm: LanguageModel, chat_format: DialogRenderer) -> Json:
        """The prompt that a chat with these messages and functions gets, as text and as ids.

        The text has no BOS, as llama-server's: `/completion` and `/tokenize` put it there. A token has
        its id and its piece, and is marked if it is a control token.
        """
        messages, tools = self.dialog(), self.offer_to(llm)
        tokenizer = llm.tokenizer
        bos = tokenizer.token_text(tokenizer.bos)
        body: Json = {"prompt": chat_format.render(messages, tools).removeprefix(bos)}
        if self.return_tokens:
            prompt = llm.chat_prompt(
                messages,
                context_policy=self.context_policy,
                max_tokens=self.max_tokens,
                tools=tools,
            )
            body["tokens"] = [
                {"id": t, "piece": _piece(t, tokenizer)}
                | ({} if tokenizer.piece(t) else {"control": True})
                for t in prompt.tokens
            ]
            body["dropped_messages"] = dropped_indices(self.messages, prompt)
        return body


@dataclass(frozen=True)
class NativeReply:
    """Renders answers as `/completion` does. `prompts` are the texts, in order of the answers; `banned` are
    the ends of an answer that `ignore_eos` takes away; `states` and `begun` are what a stream remembers of
    its answers."""

    model: str
    piece: Piece
    prompts: tuple[str, ...]
    params: SamplingParams
    stream: bool
    n: int
    return_tokens: bool = False
    response_fields: tuple[str, ...] = ()
    banned: tuple[int, ...] = ()
    timed: bool = False
    progress: bool = False
    states: dict[int, Shown] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)

    @property
    def ends_with_done(self) -> bool:
        """This dialect's streams end with the chunk whose `stop` is true."""
        return False

    def head(self, index: int) -> list[Json]:
        """Chunks that open the stream of a choice: none."""
        return []

    def chunks(self, answer: Collected, delta: Delta) -> list[Json]:
        """The chunks for what `delta` brought to `answer`."""
        chunks = []
        shown: list[TokenLogprob] = []
        if self.params.logprobs:
            state = self.states.setdefault(answer.index, Shown(self.piece))
            shown = state.take(answer, delta.logprobs)
        steps = progress_json(answer, delta, self.begun, self.timed) if self.progress else []
        if delta.text or delta.tokens or shown or steps:
            chunk: Json = {
                "index": answer.index,
                "content": delta.text,
                "tokens": list(delta.tokens),
                "stop": False,
                "id_slot": answer.timings.slot,
                "tokens_predicted": len(answer.tokens),
                "tokens_evaluated": answer.usage.prompt_tokens,
            }
            if shown:
                chunk["completion_probabilities"] = self._probabilities(shown)
            if self.timed:
                chunk["timings"] = timings_json(answer.timings, answer.usage)
            chunks += [{**chunk, **step} for step in steps] or [chunk]
        if delta.finish_reason:
            chunks.append(self.final(answer))
        return chunks

    def tail(self, answers: Sequence[Collected]) -> list[Json]:
        """Chunks that close the stream: none."""
        return []

    def failure(self, body: Json) -> list[Json]:
        """Chunks that end a stream before its time, with the `body` of an error."""
        return [body]

    def whole(self, answers: Sequence[Collected]) -> Json | list[Json]:
        """The response that is not streamed; a list if there are several answers."""
        bodies = [self.final(answer) for answer in answers]
        return bodies[0] if len(bodies) == 1 else bodies

    def final(self, answer: Collected) -> Json:
        """What is said of an answer when it has ended."""
        body: Json = {
            "index": answer.index,
            "content": "" if self.stream else answer.text,
            "tokens": answer.tokens if self.return_tokens and not self.stream else [],
            "id_slot": answer.timings.slot,
            "stop": True,
            "model": self.model,
            "tokens_predicted": answer.usage.completion_tokens,
            "tokens_evaluated": answer.usage.prompt_tokens,
            "generation_settings": generation_settings(self.params, self.stream, self.banned),
            "prompt": self.prompts[answer.index // self.n],
            "has_new_line": "\n" in answer.text,
            "truncated": answer.truncated,
            "stop_type": stop_type(answer),
            "stopping_word": answer.stop if isinstance(answer.stop, str) else "",
            "tokens_cached": answer.usage.cached_tokens,
            "timings": timings_json(answer.timings, answer.usage),
        }
        if self.params.logprobs and not self.stream:
            shown = shown_logprobs(answer, self.piece)
            body["completion_probabilities"] = self._probabilities(shown)
        return select_fields(body, self.response_fields) if self.response_fields else body

    def _probabilities(self, entries: Sequence[TokenLogprob]) -> list[Json]:
        plain = self.params.post_sampling_probs
        return [entry_json(entry, self.piece, True, plain) for entry in entries]


def native_reply(
    request: SamplingFields, llm: LanguageModel, completions: Sequence[Completion], **more: Any
) -> NativeReply:
    """How llama-server would answer a request, whichever dialect it came in."""
    return NativeReply(
        model=llm.name,
        piece=llm.tokenizer.piece,
        prompts=tuple(spelled_out(c.prompt.tokens, llm.tokenizer) for c in completions),
        params=completions[0].params,
        stream=request.stream,
        n=request.candidates,
        timed=request.timings_per_token,
        progress=request.return_progress,
        banned=tuple(sorted(llm.tokenizer.eog_tokens | completions[0].prompt.stop_tokens)),
        **more,
    )


def stop_type(answer: Collected) -> str:
    """llama-server's word for why an answer ended."""
    if answer.finish_reason is FinishReason.LENGTH:
        return "limit"
    if answer.finish_reason is FinishReason.STOP:
        return "word" if isinstance(answer.stop, str) else "eos"
    return "none"


def generation_settings(params: SamplingParams, stream: bool, ends: Sequence[int] = ()) -> Json:
    """The parameters that were used, under llama-server's names; `ends` are what `ignore_eos` bans."""
    settings = asdict(params)
    max_tokens, logprobs = settings.pop("max_tokens"), settings.pop("logprobs")
    for name in ("id_slot", "repeatable"):  # these are about where it is computed
        del settings[name]
    limit = -1 if max_tokens is None else max_tokens
    biases = list(params.logit_bias.items())
    biases += [(token, -math.inf) for token in ends if params.ignore_eos]
    return settings | {
        "seed": RANDOM_SEED if params.seed is None else params.seed,
        "grammar": params.grammar or "",
        "lora": lora_json(params.lora),
        "logit_bias": [
            {"token": token, "bias": None if bias == -math.inf else bias} for token, bias in biases
        ],
        "max_tokens": limit,
        "n_predict": limit,
        "n_probs": logprobs or 0,
        "adaptive_target": NO_TARGET,
        "adaptive_decay": ADAPTIVE_DECAY,
        "stream": stream,
    }


def spelled_out(tokens: Iterable[int], tokenizer: TextTokenizer) -> str:
    """The text of the tokens, control tokens by their names."""
    pieces = [tokenizer.piece(t) or tokenizer.token_text(t).encode() for t in tokens]
    return b"".join(pieces).decode("utf-8", "replace")


def _piece(token: int, tokenizer: TextTokenizer) -> str | list[int]:
    raw = tokenizer.piece(token) or tokenizer.token_text(token).encode()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return list(raw)
