"""Names that clients send besides the parameters of an answer, and what becomes of each.

Some say nothing to this server; some say what it does not honour but nobody is harmed by; some ask for what
it cannot do, unless their value is neutral.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Accepted whatever they say: they change nothing about the answer of any server.
NO_EFFECT = frozenset(
    {
        "model",
        "user",
        "store",
        "metadata",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "parallel_tool_calls",
        "parse_tool_calls",
        "n_cache_reuse",
        "id_slot",  # of requests that need no slot
        "t_max_prompt_ms",  # nor does it in llama-server
        "speculative.n_min",  # how long guesses are is measured here
        "speculative.p_min",
        "reasoning_format",
        "sse_ping_interval",
    }
)

# Accepted whatever they say, but named in the answer's header unless they say this (or null): what they ask
# for is a hint, or is another server's to do, and no part of the answer's meaning hangs on it.
IGNORED: Mapping[str, tuple[Any, ...]] = {
    "reasoning_effort": ("none",),
    "reasoning_budget_tokens": (-1,),
    "reasoning_control": (False,),
    "verbosity": ("medium",),
    "prediction": (),
    "chat_template_kwargs": ({},),
    "backend_sampling": (False,),
    "input_type": (),
    "num_ctx": (),
    "guided_decoding_backend": (),
    "guided_whitespace_pattern": (),
    "web_search_options": (),  # OpenAI's server searches, this one does not
}
FIGURES: Mapping[str, tuple[Any, ...]] = dict.fromkeys(
    ("timings_per_token", "return_progress", "verbose"), (False,)
)
"""The same for what llama-server adds to an answer, where a dialect has no place for it."""
IGNORED_PREFIXES = ("speculative.",)
"""Beginnings of such names, but for those named elsewhere; llama-server reads none of these per request."""
GROUPS = frozenset({"speculative"})
"""Objects whose fields are also written with a point: `{"speculative": {"n_max": 0}}`."""

# Accepted with these values only (null always is); any other value asks for what we cannot do.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    # OpenAI
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    # llama-server
    "min_keep": (0,),
    "dynatemp_range": (0,),
    "dynatemp_exponent": (1,),
    "adaptive_target": (-1,),
    "adaptive_decay": (0.9,),
    "grammar_lazy": (False,),
    "grammar_triggers": ([],),
    "preserved_tokens": ([],),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "multimodal_data": ([],),
    "image_data": ([],),
    "return_tokens": (False,),
    "penalize_nl": (False,),  # of earlier versions, as is the next one
    "tfs_z": (1,),
    # vLLM
    "best_of": (1,),
    "min_tokens": (0,),
    "length_penalty": (1,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
}

SWITCHES: Mapping[str, str] = {"tools": "tool_choice", "functions": "function_call"}
"""What may say anything as long as the field beside it says "none"."""

ALIASES = {
    "n_predict": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "n_cmpl": "n",
    "guided_regex": "regex",  # vLLM's
    "speculative.n_max": "spec_draft_n_max",  # llama-server's
    "repetition_penalty": "repeat_penalty",  # vLLM's and transformers'
    "typ_p": "typical_p",
}


def says_nothing(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether a value is null or among the neutral ones; true is not 1 and false is not 0."""
    return value is None or any(
        value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral
    )
