"""`/metrics`: what the engine tells of itself in Prometheus' text format, under llama-server's names.

Format: https://prometheus.io/docs/instrumenting/exposition_formats; names: llama.cpp's
tools/server/server-task.cpp. `n_tokens_max` is a counter there, so it is one here. Those of threads are ours;
their label says why they are as many.
"""

from __future__ import annotations

import re
import time

from codellama.engine.status import EngineStatus
from codellama.engine.threads import ThreadStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STARTED = "Process-Start-Time-Unix"
_PREFIX = "llamacpp:"
_BY_POSITION = "spec_decode_num_accepted_tokens_per_pos_total"

_COUNTERS = (
    ("prompt_tokens_total", "prompt_tokens", "Prompt tokens decoded, without those in the cache"),
    ("prompt_tokens_cached_total", "cached_tokens", "Prompt tokens found in the cache"),
    ("prompt_seconds_total", "prompt_seconds", "Seconds requests spent on their prompts"),
    ("tokens_predicted_total", "tokens_decoded", "Tokens generated"),
    ("tokens_predicted_seconds_total", "decode_seconds", "Seconds requests spent on answers"),
    ("n_decode_total", "steps", "Batches decoded"),
    ("n_tokens_max", "longest", "Most tokens that a prompt and its answer had"),
    ("spec_decode_num_draft_tokens_total", "draft_tokens", "Tokens guessed ahead"),
    ("spec_decode_num_accepted_tokens_total", "draft_accepted", "Guessed tokens that were right"),
    ("spec_decode_num_drafts_total", "drafts", "Guesses that were checked"),
)
_GAUGES = (
    ("requests_processing", "n_running", "Requests running"),
    ("requests_deferred", "n_waiting", "Requests waiting"),
)


class Metrics:
    """The page; its rates are those of the requests that ended since it was last read."""

    def __init__(self) -> None:
        self.started = int(time.time())
        self._last = EngineStatus(n_slots=0)

    def render(self, now: EngineStatus) -> str:
        """The whole page."""
        last, self._last = self._last, now
        if now.started != last.started:  # the model has been loaded again
            last = EngineStatus(n_slots=0)
        rows = [(*row[::2], "counter", f" {getattr(now, row[1])}") for row in _COUNTERS]
        prompt_n = now.timed_prompt_tokens - last.timed_prompt_tokens
        answer_n = now.timed_answer_tokens - last.timed_answer_tokens
        prompt_s = now.prompt_seconds - last.prompt_seconds
        answer_s = now.decode_seconds - last.decode_seconds
        gauges = [
            ("prompt_tokens_seconds", "Prompt tokens per second", _rate(prompt_n, prompt_s)),
            ("predicted_tokens_seconds", "Tokens per second", _rate(answer_n, answer_s)),
            *((name, text, getattr(now, field)) for name, field, text in _GAUGES),
            (
                "n_busy_slots_per_decode",
                "Requests in a batch, on average",
                _rate(now.busy_slots, now.steps),
            ),
        ]
        rows += [(name, text, "gauge", f" {value}") for name, text, value in gauges]
        rows += _threads(now.threads)
        lines = [line for name, *row in rows for line in _metric(name, *row)]
        if now.accepted_at:
            values = [f'{{position="{i}"}} {n}' for i, n in enumerate(now.accepted_at)]
            lines += _metric(_BY_POSITION, "Of these by place in their guess", "counter", *values)
        return "\n".join(lines) + "\n"


def _metric(name: str, text: str, kind: str, *values: str) -> list[str]:
    """A metric's lines; each value follows its label, or a blank."""
    head = [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} {kind}"]
    return head + [f"{_PREFIX}{name}{value}" for value in values]


def _threads(threads: ThreadStatus) -> list[tuple[str, str, str, str]]:
    """The rows of threads; the value of a gauge follows its label."""
    rows = [
        ("threads", "Threads of steps that decode answers", threads.n, threads.why),
        ("threads_batch", "Threads of steps with prompts", threads.n_batch, threads.why_batch),
    ]
    changes = ("thread_changes_total", "Changes of the two", "counter", f" {threads.changes}")
    return [
        *((name, text, "gauge", f'{{why="{_label(why)}"}} {n}') for name, text, n, why in rows),
        changes,
    ]


def _label(words: str) -> str:
    """Words as a label without blanks, which not every reader of this format expects."""
    return re.sub(r"\W+", "_", words).strip("_")


def _rate(n: float, of: float) -> float:
    return n / of if of > 0 else 0.0
