"""Continuous batching over token ids: `Engine` is a thread, `Scheduler` its policy, `Request` what
travels.

Pure Python: no ctypes, no JSON, no text formats. The native side is met through the `Runner`
protocol.

**Sharing prompts.** A slot is a sequence id and the tokens that its cache holds. A new request
takes the slot whose cache its prompt continues (*trim*). Or it forks from any slot, idle or busy,
that shares more: cells are then shared, and nothing is copied. When a running prompt is about to
decode a beginning that a waiting request shares, the waiting one waits for it. Requests with the
very same prompt begin together: all draw their first token from the logits of the one that decoded
it.

**Idle caches.** Attention runs over all used cells, so every used cell makes every step slower. As
soon as a request has work to do, idle caches leave the cells (`KVCache` parks them), unless a
waiting request shares them. They go to `PromptCache`: llama.cpp's state of the sequence in host
memory, bounded by `cache_ram`, the least recently used first out. Writing and reading a state costs
about a hundredth of decoding its tokens.

**Repeating.** Kernels round by the number of rows of a step and by where cells lie. A request that is to
repeat (`Reuse.EQUAL`) and comes to an idle engine therefore gets all cells to itself: other caches are
parked or dropped. llama.cpp takes the first free cells, so they are the same ones each time. The prompt is
decoded in pieces that depend on its length alone (`Chunks`). A beginning that is there already is taken over
only if it was decoded in the same pieces in the same cells. Beside other requests nothing of that holds, and
such a request shares like all others.

**Scored prompts.** A request for its prompt's log probabilities (`echo` with `logprobs`) decodes it
in chunks of at most 64 rows with logits. A number per token is kept, never the logits. The numbers
stay with the slot, so such requests share beginnings like all others.

**Guessing ahead.** A row of a batch is cheaper than a step. So the row of a decoding request may be
followed by rows for guessed tokens. Rows are sampled in order with the request's own sampler, as long
as what was drawn is what was guessed; the rest is trimmed. Each token comes from the same logits and
the same sampler as without guesses, but for rounding: kernels differ by the number of rows. `pace`
chooses the lengths that promise most tokens per second from measured acceptance and measured step
times. What an answer's schema or grammar leaves no choice about is the best guess there is; asking for
it takes a microsecond.

**Adapters.** llama.cpp applies LoRA adapters to a whole batch. A step is for requests with equal
scales, and groups with others take turns of a few steps each. Changing adapters makes llama.cpp
plan its memory anew: 4 ms beside steps of 5 to 7 ms, with 100 million parameters. Caches are shared
only between equal adapters.

**Context shift.** A context that is full may shift, if that was asked for. llama-server's rule applies:
the first `n_keep` tokens stay, the older half of the rest goes, the others move up. What moved was
decoded behind tokens that are gone, so a slot offers only its first `n_keep` tokens from then on.
`llama_memory_seq_add` moves a cell for every sequence that shares it, so a slot that may share one
is saved and restored first, which gives it cells of its own.

**Background work.** Embeddings are computed on the engine's thread, a chunk between two steps
(`Background`). So one thread computes at a time, and a stream waits for one chunk at most.

**Threads.** `Threads` chooses how many a step computes with, from what steps took (`threads`). With flash
attention on a CPU a step of one row rounds by that number, over 512 cells or more: llama.cpp gives each
thread a part of the cache. So a request that is to repeat has the same number in such steps each time.

**Limits.** `timeout_s` is checked at the start of a step, like a cancel. `t_max_predict_ms` and
`n_indent` end an answer inside a step, token by token. All three report "length", as llama-server
does.

**What a step costs.** A decode sweeps the weights through the processor's caches. The Python
between two decodes therefore runs cold, three times as slow as a profiler in a loop shows. So a step
makes few objects, fills ctypes columns, finds the likeliest token in llama.cpp's own buffer, and
does nothing for what nobody uses.
"""

from codellama.engine.batch import Batch, TokenLogprob
from codellama.engine.drafter import Drafter, FormDrafter, NgramDrafter
from codellama.engine.engine import Engine
from codellama.engine.model_drafter import ModelDrafter
from codellama.engine.prompt_cache import PromptCache
from codellama.engine.request import Delta, FinishReason, Request, State, Timings, Usage
from codellama.engine.runner import Runner
from codellama.engine.scheduler import Scheduler
from codellama.engine.slot import Slot
from codellama.engine.speculator import Speculator
from codellama.engine.status import EngineStatus
from codellama.engine.thread_count import ThreadCount
from codellama.engine.threads import Threads, ThreadStatus

__all__ = [
    "Batch",
    "Delta",
    "Drafter",
    "FormDrafter",
    "Engine",
    "EngineStatus",
    "FinishReason",
    "ModelDrafter",
    "NgramDrafter",
    "PromptCache",
    "Request",
    "Runner",
    "Scheduler",
    "Slot",
    "Speculator",
    "State",
    "ThreadCount",
    "ThreadStatus",
    "Threads",
    "Timings",
    "TokenLogprob",
    "Usage",
]
