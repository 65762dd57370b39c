"""`Llama`: an `LLM` where a `llama_cpp.Llama` is expected, with its constructor and its small methods.

Names of the two clash (`n_ctx` is a number of an `LLM` and a method of a `Llama`), so this is a class of its
own around an `LLM`, which is `Llama.llm`.
"""

from __future__ import annotations

import functools
import random
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from typing_extensions import Self

from codellama.compat.llama_keywords import model_options, pooling_number, request_seed
from codellama.compat.llama_vocabulary import LlamaTokenizer, metadata_texts
from codellama.devices.machine import this_machine
from codellama.errors import InvalidRequestError, UnsupportedError
from codellama.llm import LLM
from codellama.models import HubName, obtain
from codellama.params import RANDOM_SEED, Prompt, SamplingParams
from codellama.running.completion import Completion

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_ABSENT = {
    **dict.fromkeys(
        ("ctx", "eval", "eval_tokens", "eval_logits", "sample", "input_ids", "scores", "n_tokens"),
        "the engine's thread owns the context: ask with create_completion, logprobs and logits_processor",
    ),
    "generate": "create_completion with stream=True, or llm.generate, gives tokens as they come",
    **dict.fromkeys(
        ("save_state", "load_state"), "llm.save_state and llm.load_state keep a state in a file"
    ),
    "set_cache": "prompts are cached without being asked, in up to cache_ram MiB of host memory",
}
"""What a `llama_cpp.Llama` has and this has not, and where to find it."""


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _signed_as(method: Callable[..., Any]) -> Callable[[_Method], _Method]:
    """Show the signature of `method` to who asks for it; the docstring stays."""
    signed: Any = functools.wraps(method, assigned=(), updated=())
    return cast(Callable[[_Method], _Method], signed)


class Llama:
    """A model behind `llama_cpp.Llama`'s interface.

    ::

        llama = codellama.Llama(model_path="codellama-70b-instruct.Q4_K_M.gguf", n_gpu_layers=-1, n_ctx=0)
        llama.create_chat_completion([{"role": "user", "content": "Print a hello world in Python"}])

    Any number of calls may run at once. `llm` is the `LLM` behind it. What `llama_cpp.Llama` has and this has
    not is an AttributeError that says what to use instead.
    """

    def __init__(
        self,
        model_path: str,
        *,
        n_gpu_layers: int | str | None = 0,
        split_mode: int | str = 1,
        main_gpu: int = 0,
        tensor_split: Sequence[float] | None = None,
        vocab_only: bool = False,
        use_mmap: bool = True,
        use_mlock: bool = False,
        kv_overrides: Any = None,
        seed: int = RANDOM_SEED,
        n_ctx: int | None = 512,
        n_batch: int = 512,
        n_ubatch: int = 512,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        rope_scaling_type: int | str | None = -1,
        pooling_type: int | str = -1,
        attention_type: int = -1,
        rope_freq_base: float = 0.0,
        rope_freq_scale: float = 0.0,
        yarn_ext_factor: float = -1.0,
        yarn_attn_factor: float = 1.0,
        yarn_beta_fast: float = 32.0,
        yarn_beta_slow: float = 1.0,
        yarn_orig_ctx: int = 0,
        logits_all: bool = False,
        embedding: bool = False,
        offload_kqv: bool = True,
        flash_attn: bool | str | None = None,
        op_offload: bool | None = None,
        swa_full: bool | None = None,
        no_perf: bool = False,
        last_n_tokens_size: int = 64,
        lora_base: str | None = None,
        lora_scale: float = 1.0,
        lora_path: str | None = None,
        numa: bool | int = False,
        chat_format: str | None = None,
        chat_handler: Any = None,
        draft_model: Any = None,
        tokenizer: Any = None,
        type_k: int | str | None = None,
        type_v: int | str | None = None,
        spm_infill: bool = False,
        verbose: bool = True,
        **config: Any,
    ) -> None:
        """Load a GGUF, by its path or its name. Every keyword is honoured or an error; `config` are further
        fields of `ModelConfig`, such as `n_seq_max`.

        - `n_gpu_layers` -1 is all layers, or none where there is no GPU; "auto" is as many as fit.
        - `flash_attn` None leaves the choice to the plan; False switches it off.
        - `seed` gives requests without a seed of their own one after the other.
        - Log probabilities need no `logits_all`; vectors are means over the tokens without a `pooling_type`.
        - `verbose` and `no_perf` change nothing: llama.cpp's lines go to the logger `codellama.llama_cpp`.
        - `swa_full` changes nothing, as these models have no sliding window; nor does the older `f16_kv`.

        Raises what `LLM` raises.
        """
        given = {k: v for k, v in locals().items() if k not in _NO_OPTIONS} | config
        options = model_options(given, has_gpu=bool(this_machine().gpus))
        last_n = SamplingParams.of(repeat_last_n=last_n_tokens_size).repeat_last_n
        self.llm = _Host(model_path, last_n, **options)
        weakref.finalize(self, _free, self.llm).atexit = False
        self.set_seed(seed)
        self.model_path = model_path
        self.verbose = verbose
        self.last_n_tokens_size = last_n_tokens_size
        self.lora_path, self.lora_scale = lora_path, lora_scale
        self.tensor_split = tensor_split
        self.chat_handler = None
        self.draft_model = draft_model
        self.chat_format = chat_format or (self.llm.chat_format and self.llm.chat_format.name)
        self.tokenizer_ = LlamaTokenizer(self.llm.tokenizer)
        self.metadata = metadata_texts(self.llm.metadata)
        used = self.llm.config
        self.n_batch = used.n_batch
        self.n_threads = self.llm.plan.threads.n
        self.n_threads_batch = self.llm.plan.threads.n_batch
        self.context_params = SimpleNamespace(
            n_ctx=self.llm.n_ctx,
            n_batch=used.n_batch,
            n_ubatch=used.n_ubatch,
            n_seq_max=used.n_seq_max,
            n_threads=self.n_threads,
            n_threads_batch=self.n_threads_batch,
            embeddings=used.embeddings,
            offload_kqv=used.offload_kqv,
        )
        weights = self.llm.plan.model.weights
        self.model_params = SimpleNamespace(
            n_gpu_layers=weights.n_gpu_layers,
            main_gpu=weights.main_gpu,
            vocab_only=False,
            use_mmap=weights.use_mmap,
            use_mlock=weights.use_mlock,
        )

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None = None,
        additional_files: Sequence[str] | None = None,
        local_dir: str | Path | None = None,
        local_dir_use_symlinks: bool | str = "auto",
        cache_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a GGUF of a repository on the Hugging Face hub, fetched first if it is not here.

        See `LLM.from_pretrained`; `kwargs` are those of the constructor. `local_dir_use_symlinks` changes
        nothing: the hub's own client ignores it too.
        """
        if additional_files:
            raise InvalidRequestError(
                "{param}: the other parts of a split model are fetched with it: leave it out",
                "additional_files",
            )
        if cache_dir is not None:
            raise UnsupportedError(
                ": the hub's cache is where HF_HOME says", "use local_dir", setting="cache_dir"
            )
        name = HubName.parse(repo_id)
        if name is None or name.tag is not None:
            raise InvalidRequestError(
                "{param} must be ORGANISATION/NAME; got {repo!r}", "repo_id", repo=repo_id
            )
        folder = None if local_dir is None else Path(local_dir)
        return cls(str(obtain(HubName(name.repo, filename), folder=folder)), **kwargs)

    # -- asking -------------------------------------------------------------------------------

    @_signed_as(LLM.create_completion)
    def create_completion(self, prompt: Any, *args: Any, **kwargs: Any) -> Any:
        """As `LLM.create_completion`; but the names of control tokens in a prompt's text are these tokens, as
        in llama_cpp: text that somebody else typed belongs into a chat."""
        suffix = args[0] if args else kwargs.get("suffix")
        if isinstance(prompt, str) and suffix is None:
            prompt = self.llm.with_control_tokens(prompt)
        return self.llm.create_completion(prompt, *args, **kwargs)

    __call__ = create_completion

    @_signed_as(LLM.create_chat_completion)
    def create_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        """As `LLM.create_chat_completion`."""
        return self.llm.create_chat_completion(*args, **kwargs)

    def create_chat_completion_openai_v1(self, *args: Any, **kwargs: Any) -> ChatCompletion | Any:
        """The same as objects of the package `openai`, which has to be installed; chunks if `stream`."""
        from openai.types.chat import ChatCompletion, ChatCompletionChunk

        answer = self.create_chat_completion(*args, **kwargs)
        if isinstance(answer, dict):
            return ChatCompletion(**answer)
        return (ChatCompletionChunk(**chunk) for chunk in answer)

    @_signed_as(LLM.create_embedding)
    def create_embedding(self, *args: Any, **kwargs: Any) -> Any:
        """As `LLM.create_embedding`."""
        return self.llm.create_embedding(*args, **kwargs)

    @_signed_as(LLM.embed)
    def embed(self, *args: Any, **kwargs: Any) -> Any:
        """As `LLM.embed`."""
        return self.llm.embed(*args, **kwargs)

    # -- the vocabulary -----------------------------------------------------------------------

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """See `LlamaTokenizer.tokenize`."""
        return self.tokenizer_.tokenize(text, add_bos, special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """See `LlamaTokenizer.detokenize`."""
        return self.tokenizer_.detokenize(tokens, prev_tokens, special)

    def tokenizer(self) -> LlamaTokenizer:
        """The vocabulary."""
        return self.tokenizer_

    def token_bos(self) -> int:
        """The id of begin of sequence."""
        return self.llm.tokenizer.bos

    def token_eos(self) -> int:
        """The id of end of sequence."""
        return self.llm.tokenizer.eos

    def token_nl(self) -> int:
        """The id of a line end."""
        return self.llm.tokenizer.encode("\n", raw=True)[-1]

    # -- figures ------------------------------------------------------------------------------

    def n_vocab(self) -> int:
        """Number of token ids."""
        return self.llm.tokenizer.n_vocab

    def n_ctx(self) -> int:
        """The context of a call, in tokens."""
        return self.llm.n_ctx

    def n_embd(self) -> int:
        """Width of a vector."""
        return int(self.llm.metadata["llama.embedding_length"])

    def pooling_type(self) -> int:
        """llama.cpp's number of the way in which vectors are pooled."""
        return pooling_number(self.llm.config.pooling)

    @property
    def model(self) -> Any:
        """llama.cpp's pointer to the model, valid until `close`: for functions that read its vocabulary."""
        return self.llm.tokenizer.model.handle

    # -- state --------------------------------------------------------------------------------

    def set_seed(self, seed: int) -> None:
        """Requests without a seed of their own get theirs from a sequence that begins anew with this one."""
        number = request_seed(seed)
        self.llm.seeds = None if number is None else random.Random(number)

    def reset(self) -> None:
        """Nothing: every call begins anew, and what the cache holds of its prompt is the same either way."""

    def close(self) -> None:
        """Free the model; closing twice is harmless. It is freed with the object, too."""
        self.llm.close()

    def __getattr__(self, name: str) -> Any:
        about = f": {_ABSENT[name]}" if name in _ABSENT else ""
        raise AttributeError(f"codellama.Llama has no {name}{about}")

    def __repr__(self) -> str:
        return f"<Llama {self.llm.name}: context {self.llm.n_ctx}>"


_NO_OPTIONS = ("self", "model_path", "config", "seed", "last_n_tokens_size")


def _free(llm: LLM) -> None:
    """Close on a thread of its own: the object may have been collected on the engine's, or inside a lock."""
    threading.Thread(target=llm.close, name="free-llama").start()


class _Host(LLM):
    """The `LLM` of a `Llama`, with its defaults of requests."""

    def __init__(self, model: str, repeat_last_n: int, **options: Any) -> None:
        super().__init__(model, **options)
        self.seeds: random.Random | None = None
        self._repeat_last_n = repeat_last_n

    def generate(self, prompt: Prompt, *, params: SamplingParams, **options: Any) -> Completion:
        params = replace(params, repeat_last_n=self._repeat_last_n)
        if params.seed is None and self.seeds is not None:
            params = replace(params, seed=self.seeds.randrange(RANDOM_SEED))
        return super().generate(prompt, params=params, **options)

    def with_control_tokens(self, text: str) -> str | list[int]:
        """The text, or its ids with BOS if it names control tokens."""
        tokens = self.tokenizer.encode(text, parse_special=True)
        bos = [self.tokenizer.bos]
        if tuple(bos + tokens) == self.complete_prompt(text).tokens:
            return text
        return tokens if tokens[:1] == bos else bos + tokens
