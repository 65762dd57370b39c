"""What real clients send when they offer functions: bodies of `/v1/chat/completions`, as they were sent.

Recorded from openai 3.57, instructor 1.17, pydantic-ai 2.68, langchain-openai 1.7 and litellm 1.110.
"""

from __future__ import annotations

from typing import Any

QUESTION = {"role": "user", "content": "How warm is it in Paris?"}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
}
ANSWER: dict[str, Any] = {
    "properties": {
        "city": {"enum": ["Paris", "Rome"], "title": "City", "type": "string"},
        "degrees": {"maximum": 99, "minimum": 0, "title": "Degrees", "type": "integer"},
    },
    "required": ["city", "degrees"],
    "type": "object",
}


def function(name: str, parameters: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """A function as OpenAI's `tools` have it."""
    described: dict[str, Any] = {"name": name, "description": "Weather of a city now."}
    if parameters is not None:
        described |= {"parameters": parameters}
    return {"type": "function", "function": described | more}


FORCED: dict[str, dict[str, Any]] = {
    "openai, named, strict": {
        "model": "x",
        "messages": [QUESTION],
        "max_tokens": 80,
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "tools": [
            function("get_weather", WEATHER | {"additionalProperties": False}, strict=True),
            {"type": "function", "function": {"name": "now"}},
        ],
    },
    "instructor, TOOLS": {
        "messages": [QUESTION],
        "model": "x",
        "tool_choice": {"type": "function", "function": {"name": "Weather"}},
        "tools": [function("Weather", ANSWER)],
    },
    "instructor, create_iterable": {
        "messages": [QUESTION],
        "model": "x",
        "stream": True,
        "tool_choice": {"type": "function", "function": {"name": "IterableWeather"}},
        "tools": [
            function(
                "IterableWeather",
                {
                    "$defs": {"Weather": ANSWER | {"title": "Weather"}},
                    "properties": {
                        "tasks": {
                            "description": "Correctly segmented list of `Weather` tasks",
                            "items": {"$ref": "#/$defs/Weather"},
                            "title": "Tasks",
                            "type": "array",
                        }
                    },
                    "type": "object",
                    "required": [],
                },
            )
        ],
    },
    "pydantic-ai, output_type": {
        "model": "x",
        "stream": True,
        "messages": [QUESTION],
        "stream_options": {"include_usage": True},
        "tool_choice": "required",
        "tools": [
            function("final_result", ANSWER | {"additionalProperties": False}, strict=True),
            function("now", {"properties": {}, "type": "object", "additionalProperties": False}),
        ],
    },
    "langchain, function_calling": {
        "model": "x",
        "stream": False,
        "messages": [{"content": "It is 18 in Paris", "role": "user"}],
        "max_completion_tokens": 100,
        "parallel_tool_calls": False,
        "tool_choice": {"type": "function", "function": {"name": "Weather"}},
        "tools": [function("Weather", ANSWER)],
    },
    "openai, functions": {
        "model": "x",
        "messages": [QUESTION],
        "max_tokens": 80,
        "function_call": {"name": "get_weather"},
        "functions": [{"name": "get_weather", "parameters": WEATHER}, {"name": "now"}],
    },
}
"""A call is asked for."""

LOOPS: dict[str, dict[str, Any]] = {
    "openai": {
        "model": "x",
        "messages": [
            QUESTION,
            {
                "content": None,
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "function": {"arguments": '{"city": "Paris"}', "name": "get_weather"},
                        "type": "function",
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
        ],
        "tools": [function("get_weather", WEATHER)],
    },
    "litellm": {
        "model": "x",
        "messages": [
            QUESTION,
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "function": {"arguments": '{"city": "Paris"}', "name": "get_weather"},
                        "id": "call_1",
                        "type": "function",
                    }
                ],
            },
            {
                "role": "tool",
                "tool_call_id": "call_1",
                "name": "get_weather",
                "content": "18 degrees",
            },
        ],
        "max_tokens": 80,
        "tools": [function("get_weather", WEATHER)],
    },
    "openai, functions": {
        "model": "x",
        "messages": [
            QUESTION,
            {
                "role": "assistant",
                "content": None,
                "function_call": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
            },
            {"role": "function", "name": "get_weather", "content": "18 degrees"},
        ],
        "functions": [{"name": "get_weather", "parameters": WEATHER}],
    },
}
"""A result comes back."""

AUTO: dict[str, dict[str, Any]] = {
    "llm, -T": {
        "model": "x",
        "stream": True,
        "messages": [{"role": "user", "content": "Which version of llm is this?"}],
        "stream_options": {"include_usage": True},
        "tools": [function("llm_version", {"properties": {}, "type": "object"})],
    },
    "pydantic-ai, tools": {
        "model": "x",
        "stream": False,
        "messages": [{"role": "system", "content": "Be brief."}, QUESTION],
        "tool_choice": "auto",
        "tools": [
            function(
                "get_weather",
                {key: WEATHER[key] for key in ("properties", "required", "type")}
                | {"additionalProperties": False},
                strict=True,
            )
        ],
    },
    "langchain, json_schema with tools": {
        "model": "x",
        "stream": False,
        "messages": [{"content": "It is 18 in Paris", "role": "user"}],
        "max_completion_tokens": 100,
        "response_format": {
            "type": "json_schema",
            "json_schema": {
                "schema": ANSWER | {"title": "Weather", "additionalProperties": False},
                "name": "Weather",
                "strict": True,
            },
        },
        "tools": [function("get_weather", WEATHER, strict=True)],
    },
}
"""The model may call."""
