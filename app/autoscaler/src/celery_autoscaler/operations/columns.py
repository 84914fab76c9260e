"""Tables for the terminal whose names stay whole, however narrow it is.

What does not fit is left out by whole columns, the least important one first. The last column of a table may
be prose: where it does not fit beside the others, it follows below its row. Into a pipe goes all of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.text import Text

GAP = "  "


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = True
    rank: int = 0
    """Columns with a rank are left out where there is no room, the highest rank first."""


def names(title: str) -> Column:
    """Return a column of names."""
    return Column(title, is_number=False)


class Columns:
    """A table: a title, a line of headings, rows."""

    def __init__(self, title: str, columns: Iterable[Column], prose: str = "") -> None:
        """Begin a table.

        Args:
            title: The line above it.
            columns: The columns.
            prose: The title of a last column that may hold sentences; by default there is none.
        """
        self.title = title
        self.columns = tuple(columns)
        self.prose = prose
        self.rows: list[tuple[list[Text], Text]] = []

    def add(self, *cells: str | Text, prose: Text | None = None) -> None:
        """Add a row; a cell may have several lines."""
        found = [cell if isinstance(cell, Text) else Text(cell) for cell in cells]
        self.rows.append((found, prose or Text()))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [
            max([cell_len(column.title), *(width_of(cells[at]) for cells, _ in self.rows)])
            for at, column in enumerate(self.columns)
        ]
        kept = self._kept(widths, options.max_width)
        used = sum(widths[at] + len(GAP) for at in kept)
        longest = max((cell_len(prose.plain) for _, prose in self.rows), default=0)
        beside = longest > 0 and used + max(len(self.prose), longest) <= options.max_width
        yield Text(f"\n{self.title}", style="bold")
        titles = [Text(column.title, style="bold") for column in self.columns]
        yield from self._lines(titles, Text(self.prose if beside else "", style="bold"), kept, widths)
        for cells, prose in self.rows:
            yield from self._lines(cells, prose if beside else Text(), kept, widths)
            if prose and not beside:
                yield Padding(prose, (0, 0, 0, len(GAP)))

    def _kept(self, widths: Sequence[int], room: int) -> list[int]:
        """Return which columns are shown."""
        kept = list(range(len(widths)))
        for at in sorted(kept, key=lambda at: self.columns[at].rank, reverse=True):
            if not self.columns[at].rank or sum(widths[each] + len(GAP) for each in kept) - len(GAP) <= room:
                break
            kept.remove(at)
        return kept

    def _lines(
        self, cells: Sequence[Text], prose: Text, kept: Sequence[int], widths: Sequence[int]
    ) -> Iterable[Text]:
        """Return the lines of a row."""
        parts = [list(cells[at].split("\n", allow_blank=True)) for at in kept]
        for number in range(max(map(len, parts))):
            line = Text(no_wrap=True, overflow="ignore")
            for at, part in zip(kept, parts, strict=True):
                shown = part[number] if number < len(part) else Text()
                space = " " * (widths[at] - cell_len(shown.plain))
                line.append_text(Text.assemble(space, shown) if self.columns[at].is_number else shown + space)
                line.append(GAP)
            if number == 0:
                line.append_text(prose)
            line.rstrip()
            yield line


def width_of(cell: Text) -> int:
    """Return the cells that a text takes, whatever its number of lines."""
    return max(cell_len(line) for line in cell.plain.split("\n"))
