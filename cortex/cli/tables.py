"""Tables and lines for a terminal, and the same as plain aligned columns for a pipe.

Cells are `rich.text.Text` made from text that went through `text.safe`, never markup.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cortex.cli.text import ABSENT

Cell = str | Text
Row = Sequence[Cell]

GAP = 2
"""Blanks between two columns."""
MOST_STRETCH = 30
LEAST_CUT = 8
"""No column is cut to less."""
LEAST_WRAPPED = 24
"""What a column that wraps gets before others are cut for it."""
PIPE_WIDTH = 10_000
"""Wide enough that nothing is ever cut or wrapped where a script reads."""


@dataclass(frozen=True, slots=True)
class Column:
    """How one column is laid out."""

    title: str
    right: bool = False
    elastic: bool = False
    """May wrap when the terminal is narrow; the others never do."""
    cut: Literal["start", "end"] | None = None
    """Which end of its cells is left out when the terminal is narrow, instead of a wrap."""
    from_width: int = 0
    """Terminal width below which the column is left out. A pipe gets every column."""
    fixed: int | None = None
    """Width where rows are printed one by one, as they come."""


class Screen:
    """Where a command's output goes: a terminal, or a pipe that gets no colour and no box."""

    def __init__(self, stream: TextIO | None = None, *, width: int | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.is_terminal = self.stream.isatty()
        self.console = Console(
            file=self.stream,
            force_terminal=self.is_terminal,
            no_color=None if self.is_terminal else True,
            width=width if self.is_terminal else PIPE_WIDTH,
            markup=False,
            emoji=False,
            highlight=False,
        )

    @property
    def width(self) -> int:
        """Columns to lay out for; a pipe counts as endlessly wide."""
        return self.console.width

    def show(self, *parts: RenderableType) -> None:
        """Print, with no blanks at the ends of lines in a pipe."""
        if self.is_terminal:
            self.console.print(Group(*parts))
            return
        with self.console.capture() as capture:
            self.console.print(Group(*parts))
        lines = (line.rstrip() for line in capture.get().splitlines())
        self.stream.write("".join(f"{line}\n" for line in lines))
        self.stream.flush()

    def table(
        self, columns: Sequence[Column], rows: Sequence[Row], *, streamed: bool = False
    ) -> Table:
        """The rows under their titles.

        Args:
            columns: Those that are too wide for this terminal are left out.
            rows: A cell per column, left-out ones included.
            streamed: Lay out with the fixed widths, so that later rows line up with these.
        """
        kept = [i for i, column in enumerate(columns) if self.width >= column.from_width]
        table = Table(
            box=box.SIMPLE_HEAD if self.is_terminal else None,
            show_edge=False,
            pad_edge=False,
            # A box puts a blank of its own between two columns.
            padding=(0, GAP - 1 if self.is_terminal else GAP, 0, 0),
            header_style="bold" if self.is_terminal else "",
        )
        shown = [columns[i] for i in kept]
        cells = [[_text(row[i]) for i in kept] for row in rows]
        widths = self._fixed(shown) if streamed else self._cut(shown, cells)
        for column in shown:
            wraps = column.elastic and not streamed and not column.cut
            table.add_column(
                column.title if self.is_terminal else column.title.upper().replace(" ", "-"),
                justify="right" if column.right else "left",
                no_wrap=not wraps,
                overflow="fold" if wraps else "ellipsis",
                width=widths.get(column.title) if self.is_terminal else None,
                min_width=widths.get(column.title) if not self.is_terminal else None,
            )
        for row in cells:
            table.add_row(*row)
        return table

    def _cut(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> dict[str, int]:
        """Widths by title of the columns that have to be cut, and their cells cut at the start."""
        if not self.is_terminal:
            return {}
        widths = [
            max([cell_len(column.title), *(row[at].cell_len for row in rows)])
            for at, column in enumerate(columns)
        ]
        # What may wrap needs no more than this for itself.
        widths = [
            min(width, LEAST_WRAPPED) if column.elastic else width
            for width, column in zip(widths, columns, strict=True)
        ]
        over = sum(widths) + GAP * (len(columns) - 1) - self.width
        may = [at for at, column in enumerate(columns) if column.cut]
        fitting = narrowed(widths, may, over=over, least=LEAST_CUT)
        shorter = {at: width for at, width in enumerate(fitting) if width < widths[at]}
        for at, width in shorter.items():
            if columns[at].cut == "start":
                for row in rows:
                    _behead(row[at], width)
        return {columns[at].title: width for at, width in shorter.items()}

    def _fixed(self, columns: Sequence[Column]) -> dict[str, int]:
        """Widths by title. What the terminal has to spare goes to the first elastic column."""
        widths = {column.title: column.fixed or len(column.title) for column in columns}
        spare = self.width - sum(widths.values()) - GAP * (len(columns) - 1)
        stretched = next((column.title for column in columns if column.elastic), None)
        if stretched is not None and self.is_terminal:
            widths[stretched] += max(0, min(spare, MOST_STRETCH))
        return widths

    def more(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Print rows that come after a streamed table, without its titles."""
        if rows:
            table = self.table(columns, rows, streamed=True)
            table.show_header = False
            self.show(table)


def narrowed(widths: Sequence[int], may: Sequence[int], *, over: int, least: int) -> list[int]:
    """The widths with `over` taken off, always from the widest of those that `may` give, down to `least`."""
    fitting = list(widths)
    for _ in range(over):
        able = [at for at in may if fitting[at] > least]
        if not able:
            break
        fitting[max(able, key=lambda at: fitting[at])] -= 1
    return fitting


def _behead(cell: Text, width: int) -> None:
    """Leave out as much of its start as has no room."""
    if cell.cell_len <= width:
        return
    plain = cell.plain
    while cell_len(plain) > width - 1:
        plain = plain[1:]
    cell.plain = f"…{plain}"


def _text(cell: Cell) -> Text:
    if isinstance(cell, Text):
        return cell.copy()
    return Text(cell or ABSENT, style="dim" if cell in ("", ABSENT) else "")
