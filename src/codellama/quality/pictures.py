"""The card's two pictures, as SVG: size against divergence, and divergence by position.

They are drawn by matplotlib, of the extra `quality`. The same rows give the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from codellama.errors import UnsupportedError
from codellama.quality.card import CardRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE, POSITION = "size against divergence", "divergence by position in the chunk"
"""What the pictures show; they are called so."""

_UNITS = ((10**9, "GB"), (10**6, "MB"))
_MOST_CURVES = 8


def pictures(rows: Sequence[CardRow]) -> dict[str, str]:
    """Both pictures by what they show; none if no row was compared with a base.

    Raises UnsupportedError without matplotlib.
    """
    compared = [row for row in rows if row.divergence is not None]
    if not compared:
        return {}
    return {SIZE: _svg(_draw_sizes, compared), POSITION: _svg(_draw_positions, compared)}


def _svg(draw: Any, rows: Sequence[CardRow]) -> str:
    try:
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "pictures are drawn by matplotlib, which is not installed",
            "pip install 'codellama-runtime[quality]', or take the card without pictures",
        ) from error
    with rc_context({"svg.hashsalt": "codellama", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot(), rows)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _draw_sizes(axes: Axes, rows: Sequence[CardRow]) -> None:
    scale, unit = next((u for u in _UNITS if max(r.nbytes for r in rows) >= u[0]), _UNITS[-1])
    sizes = [row.nbytes / scale for row in rows]
    means = [_mean(row) for row in rows]
    axes.plot(sizes, means, "o", markersize=4)
    for i, (row, size, mean) in enumerate(zip(rows, sizes, means, strict=True)):
        side, where = (("right", -5), ("left", 5))[i % 2]  # neighbours do not cover each other
        axes.annotate(
            row.type, (size, mean), (where, -2), textcoords="offset points", fontsize=6, ha=side
        )
    axes.set_yscale("log")
    axes.set_xlabel(f"file, {unit}")
    axes.set_ylabel("mean KL divergence, nats")
    axes.margins(x=0.1)
    axes.grid(visible=True, alpha=0.3)


def _draw_positions(axes: Axes, rows: Sequence[CardRow]) -> None:
    step = -(-len(rows) // _MOST_CURVES)  # of many types some are enough to see it
    for row in rows[::step]:
        places, means = zip(*row.result["positions"], strict=True)
        axes.plot(places, means, label=row.type, linewidth=1.2)
    axes.set_yscale("log")
    axes.set_xlabel("position, tokens")
    axes.set_ylabel("mean KL divergence, nats")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7, ncols=2)


def _mean(row: CardRow) -> float:
    """The mean divergence; a file that is equal to its base is drawn at the lowest place of the axis."""
    assert row.divergence is not None
    return max(float(row.divergence["mean"]["value"]), 1e-9)
