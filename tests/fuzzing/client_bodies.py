"""Bodies that real clients send, by route: what editors, chat programs, SDKs and harnesses ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tool_bodies import FORCED

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "dialect_bodies.json").read_text())
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Add two numbers."}], "name": "ann"},
    {"role": "assistant", "content": "a + b", "tool_calls": None},
    {"role": "user", "content": "And three?"},
]
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},
]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "n": {"$ref": "#/$defs/n"}},
    "required": ["name"],
    "$defs": {"n": {"type": ["integer", "null"], "minimum": 0, "maximum": 9}},
    "additionalProperties": False,
}
EDITOR = {  # llama.vim and llama.vscode
    "id_slot": 0,
    "input_prefix": "def f(x):\n    if x:\n",
    "input_suffix": "\n    return 1\n",
    "input_extra": [{"text": "a = 1", "filename": "a.py", "time": [1, 2]}],
    "prompt": "        ",
    "n_predict": 12,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": ["content", "timings/prompt_n", "truncated", "tokens_cached"],
    "model": "",
}
BODIES: list[tuple[str, Any]] = [
    ("/infill", EDITOR),
    ("/infill", {**EDITOR, "n_predict": 0, "samplers": [], "response_fields": [""]}),
    ("/completion", {
        "prompt": "def f(x):", "n_predict": 8, "temperature": 0.8, "seed": -1, "n_probs": 2,
        "logit_bias": [["x", 1.5], [15, False]], "return_tokens": True, "timings_per_token": True,
        "post_sampling_probs": False, "samplers": "edkypmxt", "dry_multiplier": 0.8, "stream": True,
        "dry_sequence_breakers": ["\n", ":"], "mirostat": 2, "ignore_eos": False, "n_keep": 4,
        "repeat_last_n": 64, "repeat_penalty": 1.1, "xtc_probability": 0.1, "typical_p": 0.9,
    }),
    ("/completion", {"prompt": [[1, 40, 50], "abc", [1, "def"]], "n_predict": 4, "n": 2}),
    ("/completion", {"prompt": {"prompt_string": "x"}, "json_schema": SCHEMA, "n_predict": 20}),
    ("/completions", {"prompt": "x", "grammar": 'root ::= ("a" | b)+\nb ::= [0-9]{1,3}',
                      "n_predict": 6, "return_progress": True, "stream": True}),
    ("/v1/completions", {
        "model": "any", "prompt": "def f", "max_tokens": 8, "temperature": 0, "logprobs": 1,
        "echo": True, "stop": ["\n\n"], "best_of": 2, "n": 1, "seed": 5, "user": "u",
        "presence_penalty": 0.1, "frequency_penalty": 0.1, "suffix": None, "stream": False,
    }),
    ("/v1/completions", {"prompt": "a", "suffix": "b", "max_tokens": 6, "logit_bias": {"5": -100}}),
    ("/v1/chat/completions", {
        "model": "any", "messages": MESSAGES, "max_completion_tokens": 8, "temperature": 0.2,
        "top_p": 0.95, "stream": True, "stream_options": {"include_usage": True}, "n": 1,
        "logprobs": True, "top_logprobs": 2, "reasoning_effort": "low", "verbosity": "low",
        "parallel_tool_calls": False, "metadata": {}, "store": False, "tools": [],
    }),
    ("/v1/chat/completions", {
        "messages": MESSAGES[:2], "max_tokens": 30, "tools": TOOLS, "tool_choice": "none",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    }),
    ("/v1/chat/completions", {"messages": MESSAGES[3:], "max_tokens": 6, "regex": "(yes|no)+",
                              "context_policy": "drop_oldest", "response_fields": ["usage"]}),
    ("/chat/completions", {"messages": MESSAGES[3:], "n_predict": 4, "id_slot": 3, "num_ctx": 512,
                           "lora": [{"id": 0, "scale": 0.5}], "context_shift": True, "n_discard": 9,
                           "response_format": {"type": "json_object"}, "timeout_s": 0.5}),
    ("/v1/embeddings", {"input": ["abc", "def"], "model": "any", "encoding_format": "base64"}),
    ("/embeddings", {"content": [[1, 40], "x"], "embd_normalize": 1}),
    ("/embedding", {"content": "abc"}),
    ("/tokenize", {"content": "a<step>é", "with_pieces": True, "add_special": True}),
    ("/tokenize", {"prompt": "abc", "add_special_tokens": False, "return_token_strs": False}),
    ("/detokenize", {"tokens": [1, 40, 50]}),
    ("/apply-template", {"messages": MESSAGES[3:], "tools": None, "add_generation_prompt": True}),
    ("/lora-adapters", [{"id": 0, "scale": 0.5}]),
    *(("/v1/chat/completions", body) for body in FORCED.values()),
    *((case["path"], case["body"]) for case in RECORDED),
]  # fmt: skip
