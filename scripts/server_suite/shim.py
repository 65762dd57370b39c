"""Starts the server that a test of llama.cpp's wants, with options translated and models replaced.

It takes llama-server's options. `SUITE_MODELS` has the stand-ins, `SUITE_SERVER` llama-server's path, or is
empty for `codellama serve`, whose help text is in the file `SUITE_HELP`. What has no counterpart there is
left out and written to the file `SUITE_DROPPED`. Nothing but the standard library is imported, because every
test waits for it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

FLAGS = {  # options of the tests without a value
    *("--offline", "--cont-batching", "--embedding", "--reranking", "--metrics", "--kv-unified"),
    *("--swa-full", "--slots", "--no-slots", "--verbose", "--context-shift", "--no-ui", "--jinja"),
    *("--no-jinja", "--no-models-autoload", "--no-mmproj", "--no-cache-idle-slots"),
    *("--ui-mcp-proxy", "--backend_sampling"),
}
OURS = {"-ctk": "--cache-type-k", "-ctv": "--cache-type-v", "-fa": "--flash-attn"}
OURS |= {"--cors-origins": "--cors-origin"}
MODELS = {"--hf-repo", "--hf-file", "--model", "--model-url", "--offline"}
VALUES = {"draft-simple": "draft"}
"""Values of options that have another name here."""
ALL_SLOTS = 4  # llama-server's default


def pairs(args: list[str]) -> list[tuple[str, str | None]]:
    """Options with their values, None for a flag."""
    found: list[tuple[str, str | None]] = []
    rest = iter(args)
    for name in rest:
        found.append((name, None if name in FLAGS else next(rest)))
    return found


def model_for(options: dict[str, str | None], models: dict[str, str]) -> str:
    """The stand-in for the model that a test asks for."""
    named = " ".join(str(options.get(name)) for name in ("--hf-repo", "--hf-file", "--model"))
    needs_demo = "infill" in named or "MOE" in named or "--model-draft" in options
    return models["Q8_0" if needs_demo else "stories"]


def for_llama_server(given: list[tuple[str, str | None]], model: str) -> list[str]:
    """llama-server's own options, with the stand-in for the model."""
    kept = [part for name, value in given if name not in MODELS for part in (name, value)]
    return ["--model", model, *(part for part in kept if part is not None)]


def for_ours(given: list[tuple[str, str | None]], model: str, known: set[str]) -> list[str]:
    """`codellama serve`'s options; those that it has not are noted."""
    options = dict(given)
    args, dropped = ["serve", model], []
    parallel = int(options.get("--parallel") or ALL_SLOTS)
    for name, value in given:
        ours = OURS.get(name, name)
        if name in MODELS or name == "--metrics":
            continue
        if name == "--ctx-size" and value is not None:
            unified = "--kv-unified" in options
            args += ["--ctx-size", value if unified else str(int(value) // parallel)]
            args += ["--kv-cells", value] if unified else []
        elif ours in known:
            args += [ours] if value is None else [ours, VALUES.get(value, value)]
        elif name != "--kv-unified":
            dropped.append(name)
    if "--metrics" not in options:
        args.append("--no-metrics")
    if "--cors-origins" not in options:
        args += ["--cors-origin", "*"]  # llama-server's default
    with Path(os.environ["SUITE_DROPPED"]).open("a") as file:
        file.writelines(f"{name}\n" for name in dropped)
    return args


def main() -> None:
    """Become the server."""
    given = pairs(sys.argv[1:])
    models = json.loads(os.environ["SUITE_MODELS"])
    model = model_for(dict(given), models)
    if "bge" in str(dict(given).get("--hf-file")) and "--pooling" not in dict(given):
        given.append(("--pooling", "mean"))
    given.append(("--threads", "1"))
    server = os.environ["SUITE_SERVER"]
    if server:
        os.execv(server, [server, *for_llama_server(given, model)])
    help_text = Path(os.environ["SUITE_HELP"]).read_text("utf-8")
    known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_text))
    os.execv(
        sys.executable,
        [sys.executable, "-m", "codellama", *for_ours(given, model, known)],
    )


if __name__ == "__main__":
    main()
