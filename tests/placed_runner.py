"""A fake runner in which, as in llama.cpp, what a token becomes depends on where the cells lie that it looks
back on, on the number of rows of the step, and on how far the cells in use reach.

Cells are taken as llama.cpp takes them: the first free ones. A state holds them in the order of their places.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import cast

from codellama.engine.batch import Batch, Edit, Restore, Save, Scales
from tests.fake_runner import Cell, FakeRunner

PRIME = 1_000_003
BLOCK = 16  # of cells, of which attention takes so many at a time


@dataclass(frozen=True, eq=False)
class PlacedCell(Cell):
    """A cell that knows its place."""

    place: int


class PlacedRunner(FakeRunner):
    """The values are not those of `fake_runner.expected`; two of these runners are to be compared."""

    def run(self, batch: Batch) -> None:
        if self.fail is not None:
            self.fail(batch)
        self.batches.append(batch)
        for edit in batch.edits:
            self.edit(edit)
        places = self._free(len(batch.tokens))
        reach = max([*places, *self._taken()], default=0) // BLOCK
        self.rows = []
        rows = zip(batch.tokens, batch.positions, batch.seq_ids, places, strict=True)
        for token, position, seq, place in rows:
            cells = self.kv[seq]
            assert position == len(cells), "a gap in positions"
            value = self._value(cells, token, batch.scales, len(places), reach)
            cells.append(PlacedCell(token, value, place))
            self.rows.append(list(cells))

    def _value(self, cells: list[Cell], token: int, scales: Scales, n_rows: int, reach: int) -> int:
        state = (
            17
            + 7 * n_rows
            + 13 * reach
            + sum(int(1000 * s) * (7 + i) for i, s in enumerate(scales))
        )
        for cell in cells:
            state += (3 + cast(PlacedCell, cell).place) * cell.value
        return (state * 31 + token + 1) % PRIME

    def _taken(self) -> set[int]:
        return {cast(PlacedCell, cell).place for cells in self.kv for cell in cells}

    def _free(self, n: int) -> list[int]:
        taken = self._taken()
        places = [place for place in range(self.cells) if place not in taken][:n]
        assert len(places) == n, "the KV cache is full"
        return places

    def edit(self, edit: Edit) -> None:
        match edit:
            case Save(source, state):
                held = [(cast(PlacedCell, cell), i) for i, cell in enumerate(self.kv[source])]
                held.sort(key=lambda pair: pair[0].place)
                flat = [x for cell, i in held for x in (cell.token, cell.value, i)]
                state.data = bytearray(array("q", flat).tobytes())
            case Restore(target, state):
                assert state.data is not None
                flat = array("q", bytes(state.data)).tolist()
                self.kv[target] = []
                places = self._free(len(flat) // 3)
                cells = {
                    flat[3 * k + 2]: PlacedCell(flat[3 * k], flat[3 * k + 1], place)
                    for k, place in enumerate(places)
                }
                self.kv[target] = [cells[i] for i in range(len(cells))]
            case _:
                super().edit(edit)
