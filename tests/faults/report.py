"""The table that a run of these tests ends with: `docs/operations.md` has the same one in words."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    fault: str
    saw: str
    lost: str
    recovered: str


LINES: list[Line] = []


def tell(fault: str, saw: Counter[str] | str, lost: str, recovered_s: float | str) -> None:
    """One fault that was lived through."""
    words = saw
    if isinstance(saw, Counter):
        words = ", ".join(f"{number} {word}" for word, number in saw.most_common())
    took = recovered_s if isinstance(recovered_s, str) else f"{recovered_s:.1f} s"
    LINES.append(Line(fault, str(words), lost, took))


def table() -> list[str]:
    rows = [Line("fault", "clients saw", "lost", "well again after"), *LINES]
    widths = [max(len(row.fault) for row in rows), max(len(row.lost) for row in rows)]
    return [
        f"{row.fault:{widths[0]}}  {row.recovered:>16}  {row.lost:{widths[1]}}  {row.saw}"
        for row in rows
    ]
