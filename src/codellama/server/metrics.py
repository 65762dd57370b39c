"""`/metrics`: what the engine tells of itself in Prometheus' text format, under llama-server's names.

Pure. Format: https://prometheus.io/docs/instrumenting/exposition_formats; names: llama.cpp's
tools/server/server-task.cpp, as far as the engine has the figure.
"""

from __future__ import annotations

from codellama.engine.status import EngineStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "llamacpp:"

_COUNTERS = (
    ("prompt_tokens_total", "prompt_tokens", "Prompt tokens decoded, without those in the cache"),
    ("prompt_tokens_cached_total", "cached_tokens", "Prompt tokens found in the cache"),
    ("prompt_seconds_total", "prompt_seconds", "Seconds requests spent on their prompts"),
    ("tokens_predicted_total", "tokens_decoded", "Tokens generated"),
    ("tokens_predicted_seconds_total", "decode_seconds", "Seconds requests spent on answers"),
    ("n_decode_total", "steps", "Batches decoded"),
    ("spec_decode_num_draft_tokens_total", "draft_tokens", "Tokens guessed ahead"),
    ("spec_decode_num_accepted_tokens_total", "draft_accepted", "Guessed tokens that were right"),
)
_GAUGES = (
    ("requests_processing", "n_running", "Requests running"),
    ("requests_deferred", "n_waiting", "Requests waiting"),
)


def render(status: EngineStatus) -> str:
    """The whole page."""
    lines: list[str] = []
    for kind, metrics in (("counter", _COUNTERS), ("gauge", _GAUGES)):
        for name, field, text in metrics:
            value = getattr(status, field)
            lines += [
                f"# HELP {_PREFIX}{name} {text}",
                f"# TYPE {_PREFIX}{name} {kind}",
                f"{_PREFIX}{name} {value}",
            ]
    return "\n".join(lines) + "\n"
