"""Tables as data: the page and LaTeX write the same ones."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """One cell: its text, a detail in small print (an interval), and what it is sorted by, if it is a number."""

    text: str
    detail: str = ""
    number: float | None = None


NOTHING = Value("\u2013")


@dataclass(frozen=True)
class Column:
    """A column: its head, and a second line of it (the selection rule of the scores below)."""

    head: str
    under: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Attributes:
        name: for references, such as `aggregate`.
        caption: what it shows, with selection rule and caveat.
        columns, rows: as many values a row as columns.
        strong: texts of the first column whose rows stand out (the base).
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    strong: frozenset[str] = frozenset()

    def words(self) -> set[int]:
        """Places of the columns that hold words, not numbers."""
        columns = enumerate(zip(*self.rows, strict=True))
        return {place for place, column in columns if not all(_is_number(value) for value in column)}

    @property
    def width(self) -> int:
        """Characters of its widest row, about: details are small, heads may break into two lines."""
        heads = [max(len(column.head) // 2, len(column.under) // 2) for column in self.columns]
        cells = [[len(value.text) + len(value.detail) * 2 // 3 for value in row] for row in self.rows]
        return sum(max(sizes) + 2 for sizes in zip(heads, *cells, strict=True))

    def beside(self, *others: Table) -> Table:
        """This table with the columns of others of the same rows to its right."""
        columns = self.columns + tuple(column for other in others for column in other.columns[1:])
        extra = zip(*(other.rows for other in others), strict=True)
        rows = zip(self.rows, extra if others else [()] * len(self.rows), strict=True)
        joined = tuple(row + tuple(value for more in rest for value in more[1:]) for row, rest in rows)
        return Table(self.name, self.caption, columns, joined, self.strong)

    def without(self, heads: Container[str]) -> Table:
        """This table but for the columns of these heads."""
        kept = [place for place, column in enumerate(self.columns) if column.head not in heads]
        columns = tuple(self.columns[place] for place in kept)
        rows = tuple(tuple(row[place] for place in kept) for row in self.rows)
        return Table(self.name, self.caption, columns, rows, self.strong)

    def turned(self, head: str) -> Table:
        """Rows as columns, the first one headed `head`; under each stands what stood under all of them."""
        heads = tuple(row[0].text for row in self.rows)
        under = {column.under for column in self.columns[1:]}
        line = under.pop() if len(under) == 1 else ""
        columns = (Column(head), *(Column(head, line) for head in heads))
        rows = tuple(
            (Value(column.head), *(row[place] for row in self.rows))
            for place, column in enumerate(self.columns)
            if place
        )
        return Table(self.name, self.caption, columns, rows)


def _is_number(value: Value) -> bool:
    return value.number is not None or value == NOTHING
