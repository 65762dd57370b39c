"""The rooms of the house in the order in which they import, and who may import what from outside.

This is the one list: the import test holds the code to it, and `scripts/file_map.py` makes the table in
ARCHITECTURE.md and the map of the files from it.
"""

from __future__ import annotations

ROOMS = (
    "errors",
    "system",
    "settings",
    "variants",
    "params",
    "engine",
    "prompts",
    "edits",
    "constraints",
    "native",
    "kernels",
    "files",
    "devices",
    "weights",
    "models",
    "running",
    "compat",
    "llm",
    "llama",
    "session",
    "quality",
    "protocol",
    "server",
    "replicas",
    "cli",
    "integrations",
    "__init__",
    "__main__",
)
"""A folder or a module of `src/codellama` each. A room imports from rooms above it and from itself."""

OUTSIDE = {
    "click": {"cli"},
    "fastapi": {"replicas", "server"},
    "gguf": {"weights"},
    "guidance": {"integrations"},
    "huggingface_hub": {"weights"},
    "llama_cpp": {"native", "integrations"},
    "llguidance": {"constraints"},
    "lm_eval": {"quality"},
    "markdown_it": {"cli"},
    "matplotlib": {"quality"},
    "numpy": {
        "constraints",
        "native",
        "kernels",
        "files",
        "weights",
        "running",
        "quality",
        "protocol",
        "integrations",
    },
    "openai": {"llama"},
    "outlines": {"integrations"},
    "prompt_toolkit": {"cli"},
    "pydantic": {"protocol"},
    "pydantic_core": {"server"},
    "ray": {"replicas"},
    "rich": {"cli"},
    "starlette": {"replicas", "server"},
    "tqdm": {"quality"},
    "typing_extensions": {
        "compat",
        "errors",
        "llama",
        "llm",
        "native",
        "params",
        "prompts",
        "protocol",
        "running",
        "session",
    },
    "uvicorn": {"server"},
    "yaml": {"weights"},
}
"""Every package from outside the standard library, and the rooms that may import it."""
