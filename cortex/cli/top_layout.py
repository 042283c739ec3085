"""How much room everything gets: rows by table, cells by column. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from cortex.cli.tables import Column, narrowed

FOCUSED_SHARE = 3
"""Rows that the focused table gets for one of another, as long as it has more."""
LEAST_ELASTIC = 6


def allot(wanted: Sequence[int], focus: int, room: int) -> list[int]:
    """How many rows each table shows, `room` in all at most; nobody gets more than wanted."""
    given = [0] * len(wanted)
    turns = [focus] * (FOCUSED_SHARE - 1) + list(range(len(wanted)))
    while room > 0 and any(has < wants for has, wants in zip(given, wanted, strict=True)):
        for index in turns:
            if room > 0 and given[index] < wanted[index]:
                given[index] += 1
                room -= 1
    return given


@dataclass(frozen=True, slots=True)
class Grid:
    """The columns that are kept, by index, and their widths."""

    kept: tuple[int, ...]
    widths: tuple[int, ...]
    gap: int

    def line(self, cells: Sequence[Text], columns: Sequence[Column]) -> Text:
        """The cells side by side; what is too long ends in an ellipsis."""
        line = Text(no_wrap=True)
        for index, width in zip(self.kept, self.widths, strict=True):
            if line:
                line.append(" " * self.gap)
            cell = cells[index].copy()
            cell.truncate(width, overflow="ellipsis")
            blank = " " * (width - cell_len(cell.plain))
            right = columns[index].right
            line.append_text(Text(blank) + cell if right else cell + blank)
        return line


def grid(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> Grid:
    """Columns as wide as their longest cell, the elastic ones narrower where the width wants it."""
    kept = [i for i, column in enumerate(columns) if width >= column.from_width]
    widths = [
        max(
            cell_len(columns[i].title),
            columns[i].fixed or 0,
            *(cell_len(row[i].plain) for row in rows),
        )
        for i in kept
    ]
    gap = 1 if width < 100 else 2
    over = sum(widths) + gap * (len(kept) - 1) - width
    elastic = [at for at, i in enumerate(kept) if columns[i].elastic]
    widths = narrowed(widths, elastic, over=over, least=LEAST_ELASTIC)
    return Grid(tuple(kept), tuple(widths), gap)
