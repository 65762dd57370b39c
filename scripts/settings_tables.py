"""Writes what follows from the declarations in `params`: tables in two documents, and `params/options.py`.

The tables are in PYTHON_API.md and, for what a request may set, in the server's README. They have the flags
of the command line and the names of HTTP. `params/options.py` has the same settings as keyword arguments.

scripts/settings_tables.py            rewrite all of it
scripts/settings_tables.py --check    fail if one is out of date (run by scripts/check)
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "codellama"
PYTHON_API = PACKAGE / "PYTHON_API.md"
SERVER = PACKAGE / "server" / "README.md"
OPTIONS = PACKAGE / "params" / "options.py"
BEGIN = "<!-- {name}: made by scripts/settings_tables.py -->\n"
END = "<!-- end of {name} -->\n"
CODE_BEGIN = "    # {name}: made by scripts/settings_tables.py\n"
CODE_END = "    # end of {name}\n"

sys.path.insert(0, str(PACKAGE.parent))

from codellama.cli.options import COMMAND_LINE, flags_of  # noqa: E402
from codellama.params import ModelConfig, SamplingParams  # noqa: E402
from codellama.protocol.fields import SamplingFields  # noqa: E402
from codellama.protocol.known import ALIASES  # noqa: E402
from codellama.settings import Setting, settings_of  # noqa: E402


def values(setting: Setting) -> str:
    """What a setting may be: its choices, or its type and its limits."""
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    return f"{type_name(setting.kind)} {setting.limits}".rstrip()


def wire_values(setting: Setting) -> str:
    """The same for the body of an HTTP request, where an object is never given as its text."""
    if get_origin(setting.kind) not in (Union, types.UnionType):
        return values(setting)
    accepted = get_args(SamplingFields.model_fields[setting.name].annotation)
    kinds = [kind for kind in get_args(setting.kind) if kind is not str or str in accepted]
    return " or ".join(map(type_name, kinds))


def type_name(kind: Any) -> str:
    """A type in the words of a table."""
    words = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    if kind in words:
        return words[kind]
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_name, args)))
    if origin is tuple and args[-1] is not ...:
        return f"({', '.join(map(type_name, args))})"
    if origin is tuple:
        return f"list of {type_name(args[0])}"
    name = getattr(origin, "__name__", "")
    if name == "Literal" or not args:
        return ", ".join(f"`{arg}`" for arg in args) or kind.__name__
    return {"PathLike": "path", "Mapping": "mapping"}[name]


def default(setting: Setting) -> str:
    """The default as it is written in Python, and what it means if that is not plain."""
    text = setting.declaration.default_text and setting.default_text(quoted)
    if setting.default is None:
        return f"`None`: {text}"
    return text or f"`{setting.default!r}`"


def quoted(name: str) -> str:
    """A setting's name in a text."""
    return f"`{name}`"


def row(*cells: str) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def flags(setting: Setting) -> str:
    """The flags of the command line, the model's where a request has none of its own."""
    option = COMMAND_LINE.get(setting.name)
    return f"`{', '.join(flags_of(option))}`" if option else "no"


def wire_names(setting: Setting) -> str:
    """The names of a setting in the body of an HTTP request."""
    if "HTTP" not in setting.faces:
        return "no"
    others = [alias for alias, name in ALIASES.items() if name == setting.name]
    return f"`{', '.join([setting.name, *others])}`"


def python_table(cls: type) -> str:
    """The table of PYTHON_API.md for `SamplingParams` or `ModelConfig`."""
    rows = [
        row("name", "values", "default", "what it is", "command line", "HTTP"),
        "|---|---|---|---|---|---|\n",
    ]
    for s in settings_of(cls):
        cells = (quoted(s.name), values(s), default(s), s.sentence(quoted), flags(s), wire_names(s))
        rows.append(row(*cells))
    return "".join(rows)


def server_table() -> str:
    """The table of the server's README: what a request may set."""
    rows = [row("field", "values", "what it is", "`serve`'s option"), "|---|---|---|---|\n"]
    for s in settings_of(SamplingParams):
        if "HTTP" in s.faces:
            rows.append(row(wire_names(s), wire_values(s), s.sentence(quoted), flags(s)))
    return "".join(rows)


def keywords(cls: type) -> str:
    """The fields of a dataclass as those of a TypedDict; where it has a tuple, any sequence will do."""
    lines = []
    for field in dataclasses.fields(cls):
        kind = re.sub(r"^tuple\[(.*), \.\.\.\]$", r"Sequence[\1]", str(field.type))
        lines.append(f"    {field.name}: {kind}\n")
    return "".join(lines)


def documents() -> dict[Path, str]:
    """Every file and what it ought to be."""
    api, options = PYTHON_API.read_text("utf-8"), OPTIONS.read_text("utf-8")
    for name, cls in (("sampling", SamplingParams), ("model", ModelConfig)):
        api = replaced(api, python_table(cls), BEGIN.format(name=name), END.format(name=name))
        marks = CODE_BEGIN.format(name=name), CODE_END.format(name=name)
        options = replaced(options, keywords(cls), *marks)
    marks = BEGIN.format(name="fields"), END.format(name="fields")
    server = replaced(SERVER.read_text("utf-8"), server_table(), *marks)
    return {PYTHON_API: api, OPTIONS: options, SERVER: server}


def replaced(text: str, part: str, begin: str, end: str) -> str:
    """`text` with this part between two marks."""
    head, rest = text.split(begin)
    return head + begin + part + end + rest.split(end)[1]


def main() -> int:
    """Rewrite or check; the exit code."""
    texts = documents()
    stale = [path for path, text in texts.items() if path.read_text("utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is out of date: run scripts/settings_tables.py", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.write_text(texts[path], "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
