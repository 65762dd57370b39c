"""The quality card: a table over files of one model, as Markdown or HTML. Pure.

A row is a file's result as `measure` writes it, with what the file takes on machines of common sizes. The
card is a document of its own, or a part of one, between two marks.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from codellama.devices.machine import Machine
from codellama.devices.planner import plan_load
from codellama.devices.sizes import model_sizes, size_text
from codellama.errors import ConversionError
from codellama.files.gguf_header import GGUFHeader
from codellama.native.backends import Device
from codellama.native.ggml import file_types
from codellama.params import ModelConfig

BEGIN, END = "<!-- codellama quality card -->", "<!-- end of the quality card -->"
"""Between these lines a document has its card."""

GPUS_GB = (8, 24, 48, 80)
_HEAD = (
    "type", "bytes", "perplexity", "KL divergence", "99.9 % below", "same top token", "prompt t/s",
    "answer t/s", "memory",
)  # fmt: skip


@dataclass(frozen=True)
class CardRow:
    """A file: its type, its bytes, its result, what it takes to run, and its layers on GPUs of `GPUS_GB`."""

    type: str
    nbytes: int
    result: Mapping[str, Any]
    memory_bytes: int
    n_layers: int
    gpu_layers: tuple[int, ...]

    @property
    def divergence(self) -> Mapping[str, Any] | None:
        """What the result says of the base; None for the base itself."""
        found: Mapping[str, Any] | None = self.result["summary"]["divergence"]
        return found


def row(header: GGUFHeader, nbytes: int, result: Mapping[str, Any]) -> CardRow:
    """The row of a file of `nbytes` with this header: what it takes is planned for one full context."""
    config = ModelConfig(n_seq_max=1)
    layers = []
    for size in GPUS_GB:
        gpu = Device("GPU", "", "gpu", size * 10**9, size * 10**9)
        layers.append(plan_load(header, config, Machine(2**40, (gpu,))).model.weights.n_gpu_layers)
    plan = plan_load(header, config, Machine(2**40)).model
    return CardRow(
        type=type_name(header),
        nbytes=nbytes,
        result=result,
        memory_bytes=plan.weight_bytes + plan.kv_bytes,
        n_layers=len(model_sizes(header).layers),
        gpu_layers=tuple(layers),
    )


def type_name(header: GGUFHeader) -> str:
    """The type of a file, such as Q4_K_M; its name where it does not say."""
    number = header.metadata.get("general.file_type")
    names = [name for name, value in file_types().items() if value == number]
    return names[0] if names else header.path.stem


def ordered(rows: Sequence[CardRow]) -> list[CardRow]:
    """The base first, then the others from the largest to the smallest."""
    return sorted(rows, key=lambda r: (r.divergence is not None, -r.nbytes, r.type))


def cells(found: CardRow, n_gpus: int) -> list[str]:
    """A row as texts, in the order of `heads`."""
    summary, speed, other = found.result["summary"], found.result["speed"], found.divergence
    perplexity = summary["perplexity"]
    return [
        found.type,
        f"{found.nbytes:,}",
        f"{perplexity['value']:.4f} ± {perplexity['error']:.4f}",
        f"{other['mean']['value']:.5f} ± {other['mean']['error']:.5f}" if other else "the base",
        f"{other['quantiles']['0.999']:.4f}" if other else "",
        f"{100 * other['same_top']['value']:.2f} %" if other else "",
        *((f"{speed['prompt']:.1f}", f"{speed['decode']:.1f}") if speed else ("", "")),
        size_text(found.memory_bytes),
        *(_layers(count, found.n_layers) for count in found.gpu_layers[:n_gpus]),
    ]


def heads(n_gpus: int) -> list[str]:
    """The names of the columns, with the `n_gpus` smallest GPUs."""
    return [*_HEAD, *(f"{size} GB GPU" for size in GPUS_GB[:n_gpus])]


def gpus_to_show(rows: Sequence[CardRow]) -> int:
    """How many of `GPUS_GB`: none behind the first that holds every file wholly."""
    for count in range(1, len(GPUS_GB)):
        if all(found.gpu_layers[count - 1] == found.n_layers for found in rows):
            return count
    return len(GPUS_GB)


def notes(rows: Sequence[CardRow]) -> list[str]:
    """What has to be said beside the table, a sentence each."""
    result = rows[-1].result
    text = (
        "code that comes with codellama-runtime"
        if result["text"] == "code.txt"
        else f"the text {result['text']}"
    )
    said = [
        f"Measured over {text}: {result['n_chunks']} chunks of {result['chunk_tokens']} tokens, of which "
        "the second half of each counts.",
        f"The divergence is that from {rows[0].type}, its mean in nats a token, and what 99.9 % of the "
        "tokens are below.",
        "Memory is that of weights and one full context; the last columns are layers that fit such a GPU.",
    ]
    speeds = [r.result["speed"] for r in rows if r.result["speed"]]
    if speeds:
        said.append(
            "The speeds are those of one stream on the machine that made this card, measured as by "
            f"`codellama bench`: a prompt of {speeds[0]['n_prompt']} tokens, and {speeds[0]['n_tokens']} "
            "behind a single one."
        )
    outside = [r.result["outside"] for r in rows if r.result["outside"] is not None]
    if outside:
        said.append(
            f"Divergences are estimates: {100 * max(outside):.1f} % of the base's probability was only drawn "
            "from, which is in the errors of the means."
        )
    return said


def table(rows: Sequence[CardRow]) -> list[list[str]]:
    """The head and a line for each row, without the columns in which no row has anything."""
    n_gpus = gpus_to_show(rows)
    lines = [cells(found, n_gpus) for found in rows]
    used = [any(column) for column in zip(*lines, strict=True)]
    return [list(compress(line, used)) for line in (heads(n_gpus), *lines)]


def markdown(rows: Sequence[CardRow], pictures: Mapping[str, str]) -> str:
    """The card as Markdown; `pictures` are addresses by what they show."""
    head, *body = table(rows)
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [f"| {' | '.join(line)} |" for line in (head, rule, *body)]
    shown = [f"![{what}]({address})" for what, address in pictures.items()]
    return "\n\n".join(["\n".join(lines), "\n".join(notes(rows)), *shown]) + "\n"


def page(title: str, rows: Sequence[CardRow], pictures: Mapping[str, str]) -> str:
    """The card as one HTML page; `pictures` are SVG elements by what they show."""

    def line(values: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(v)}</{kind}>" for v in values) + "</tr>"

    head, *lines = table(rows)
    body = "\n".join(line(cells, "td") for cells in lines)
    said = "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in notes(rows))
    shown = "\n".join(
        f"<figure>{svg}<figcaption>{html.escape(what)}</figcaption></figure>"
        for what, svg in pictures.items()
    )
    return _PAGE.format(
        title=html.escape(title), head=line(head, "th"), body=body, said=said, shown=shown
    )


def put_into(document: str, card: str, where: str) -> str:
    """The document with `card` between its marks, or at its end with marks if it has none.

    Raises ConversionError if only one mark is there; `where` names the document.
    """
    marked = f"{BEGIN}\n{card}{END}\n"
    if BEGIN not in document and END not in document:
        return f"{document.rstrip()}\n\n## Quality\n\n{marked}".lstrip()
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConversionError(f"{where}: one of the lines {BEGIN} and {END} is missing")
    return f"{before}{marked}{after.removeprefix(chr(10))}"


def _layers(count: int, of: int) -> str:
    return "all" if count == of else f"{count} of {of}"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
td, th {{ border-bottom: 1px solid #ccc; padding: .3em .7em; text-align: right; white-space: nowrap; }}
td:first-child, th:first-child {{ text-align: left; }}
figure {{ display: inline-block; margin: 1em 0; }} svg {{ max-width: 100%; height: auto; }}
</style>
<h1>{title}</h1>
<table><thead>{head}</thead><tbody>
{body}
</tbody></table>
{said}
{shown}
</html>
"""
