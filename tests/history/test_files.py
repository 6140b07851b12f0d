"""Rows of files: what a stray quote costs, and what rows of several lines may be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinstream.errors import Refused
from pinstream.history import files
from pinstream.history.files import MAX_LINE_CHARS, MAX_RECORD_LINES


def read(path: Path, text: str, encoding: str = "utf-8") -> tuple[dict[int, list[str]], dict[int, str]]:
    """Line -> cells of what is read, and line -> reason of what is refused."""
    path.write_text(text, encoding="utf-8", newline="")
    with files.opened(path, encoding) as table:
        table.head()
        rows = list(table.rows())
    taken = {line: list(fields.values()) for line, fields in rows if not isinstance(fields, Refused)}
    refused = {line: fields.reason for line, fields in rows if isinstance(fields, Refused)}
    assert len(taken) + len(refused) == len(rows)
    return taken, refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "o.csv"


def numbered(numbers: Iterator[int] | range) -> dict[int, list[str]]:
    return {number: [str(number), "ann", "5"] for number in numbers}


@pytest.mark.parametrize("quoted", [False, True])
def test_a_stray_quote_costs_its_own_line(path: Path, quoted: bool) -> None:
    lines = [f'"{number}","ann","5"\n' if quoted else f"{number},ann,5\n" for number in range(2, 5002)]
    lines[50] = '52,"ann,5\n'
    taken, refused = read(path, "id,name,total\n" + "".join(lines))
    assert list(refused) == [52]
    assert taken == {line: cells for line, cells in numbered(range(2, 5002)).items() if line != 52}


@pytest.mark.parametrize("last", ['4,"ann,5', '4,"ann,5\n', '4,ann,5\n5,ann,"'])
def test_a_quote_that_the_end_of_the_file_leaves_open(path: Path, last: str) -> None:
    taken, refused = read(path, f"id,name,total\n2,ann,5\n3,ann,5\n{last}")
    assert list(refused.values()) == ["bad_value"]
    assert taken.keys() | refused.keys() == set(range(2, max(refused) + 1))


def test_two_stray_quotes_swallow_no_rows_between_them(path: Path) -> None:
    taken, refused = read(path, 'id,name,total\n2,"ann,5\n3,ann,5\n4,ann,5"\n5,ann,5\n')
    assert list(refused) == [2]
    assert taken == numbered(range(3, 6)) | {4: ["4", "ann", '5"']}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_quoted_text_may_hold_line_breaks(path: Path, end: str) -> None:
    note = end.join(f'line {number}, with ""both""' for number in range(MAX_RECORD_LINES))
    taken, refused = read(path, f'id,name,total{end}2,"{note}",5{end}{2 + MAX_RECORD_LINES},ann,5{end}')
    assert refused == {}
    assert taken == {2: ["2", note.replace('""', '"'), "5"]} | numbered(range(102, 103))


def test_a_row_has_a_bound_of_lines_and_of_characters(path: Path) -> None:
    note = "\n" * MAX_RECORD_LINES
    taken, refused = read(path, f'id,name,total\n2,"{note}",5\n{3 + MAX_RECORD_LINES},ann,5\n')
    assert refused == {2: "too_long", 102: "bad_value"}
    assert taken == numbered(range(103, 104))
    cells = ",".join("x" * 100_000 for _ in range(6))
    taken, refused = read(path, f'id,name\n{cells},"\n",{cells}\n4,ann\n')
    assert (taken, refused) == ({4: ["4", "ann"]}, {2: "too_long", 3: "too_long"})


def test_a_line_past_its_bound_behind_an_open_quote_is_refused_itself(path: Path) -> None:
    taken, refused = read(path, f'id,name,total\n2,"ann,5\n3,ann,5\n4,{"x" * (2 * MAX_LINE_CHARS)},5\n5,ann,5\n')
    assert refused == {2: "too_long", 4: "too_long"}
    assert taken == numbered(iter((3, 5)))


def test_every_line_is_read_or_refused_whatever_the_quotes(path: Path) -> None:
    """Rows that are whole lines: each is in one of the two, however many quotes are strewn over others."""
    chance = random.Random(7)
    for _ in range(300):
        lines = [f"{number},ann,5" for number in range(2, 40)]
        for place in chance.sample(range(len(lines)), chance.randint(0, 5)):
            line, at = lines[place], chance.randint(0, len(lines[place]))
            lines[place] = line[:at] + chance.choice(['"', '""', '"""', '",', ',"']) + line[at:]
        taken, refused = read(path, "id,name,total\n" + "\n".join(lines))
        spans = sorted(taken.keys() | refused.keys())
        for first, following in zip(spans, [*spans[1:], 40], strict=True):
            inside = "".join(taken.get(first, []))
            assert following - first - 1 == inside.count("\n"), (first, lines)


@pytest.mark.parametrize(
    ("head", "reason", "hint"),
    [
        (f'"{"x" * 200_000}",total\n', "too_long", "field limit"),
        (f"{'x' * (2 * MAX_LINE_CHARS)}\n", "too_long", "characters"),
        ('"id,total\n1,5\n', "bad_value", "no row of CSV"),
        ("\n1,5\n", "bad_value", "names no columns"),
        ("Num\u00e9ro,total\n1,5\n", "bad_text", "--encoding cp1252"),
    ],
)
def test_a_head_that_cannot_be_read_is_refused(path: Path, head: str, reason: str, hint: str) -> None:
    path.write_text(head, encoding="cp1252", newline="")
    with files.opened(path, "utf-8") as table, pytest.raises(Refused, match=hint) as caught:
        table.head()
    assert caught.value.reason == reason


def test_a_name_of_a_column_may_hold_a_line_break(path: Path) -> None:
    assert read(path, 'id,"the\nname",total\n3,ann,5\n') == (numbered(range(3, 4)), {})
