"""Tables of the terminal: names stay whole at any width, and what does not fit gives way."""

from __future__ import annotations

import io

from celery_autoscaler.operations.columns import Column, Columns, names
from celery_autoscaler.operations.terminal import new_console, plain
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

COLUMNS = (names("worker"), Column("done", rank=2), Column("runs"), Column("memory", rank=1))
LONG = "video-transcoding-12@worker1.eu-central.example.com"


def shown(table: Columns, width: int) -> list[str]:
    """Return the lines of a table."""
    console = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as found:
        console.print(table, crop=False)
    return [line.rstrip() for line in found.get().splitlines()]


def table_of(*workers: tuple[str, str]) -> Columns:
    """Return a table of workers, each with what it does."""
    table = Columns("Workers", COLUMNS, "now")
    for name, now in workers:
        table.add(plain(name), "10", "2", "100 MiB", prose=plain(now) if now else None)
    return table


def test_prose_stands_beside_its_row_where_there_is_room_and_below_it_elsewhere() -> None:
    table = table_of((LONG, "orders.resize for 1 s"), ("mail-1@b", ""))

    assert shown(table, 120)[3] == f"{LONG}    10     2  100 MiB  orders.resize for 1 s"
    narrow = shown(table, 80)
    assert narrow[3:5] == [f"{LONG}    10     2  100 MiB", "  orders.resize for 1 s"]
    assert "now" not in narrow[2]


def test_the_least_important_columns_give_way_first() -> None:
    table = table_of((LONG, ""))

    headings = [shown(table, width)[2].split() for width in (80, 70, 60, 20)]

    assert headings == [
        ["worker", "done", "runs", "memory"], ["worker", "runs", "memory"], ["worker", "runs"],
        ["worker", "runs"],
    ]  # fmt: skip


def test_a_cell_with_several_lines_moves_no_other() -> None:
    table = Columns("Groups", (names("group"), Column("workers"), Column("waiting")))
    table.add("web", "1\n+2 starting", "7")

    assert shown(table, 80)[2:] == [
        "group      workers  waiting", "web              1        7", "       +2 starting"
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=60), st.text(max_size=200)), max_size=5),
    st.integers(1, 200),
)
def test_every_name_is_whole_in_one_line_at_any_width(workers: list[tuple[str, str]], width: int) -> None:
    table = table_of(*workers)

    found = shown(table, width)

    for name, _ in workers:
        assert any(line.startswith(str(plain(name)).rstrip()) for line in found)


def test_a_pipe_gets_each_line_whole() -> None:
    console = new_console()
    with console.capture() as found:
        console.print(plain("word " * 1000))

    assert found.get().count("\n") == 1
