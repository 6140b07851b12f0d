"""Files of orders and events: what is read, refused and appended, and what becomes of it in profile and audiences."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from pinstream.audiences import compile, templates
from pinstream.audiences.rule import Rule
from pinstream.clock import now_ms
from pinstream.collect.identity import digest
from pinstream.errors import Refused, Retryable
from pinstream.event import EVENTS, REASONS
from pinstream.eventlog.journal import JournalLog
from pinstream.history import importing
from pinstream.history.columns import Reading, reading
from pinstream.history.sorting import MAX_RUNS, Entry, Sorter
from pinstream.settings import Log
from pinstream.warehouse.client import Warehouse
from tests.history.place import DAY_MS, Place, csv, stamp

SHOPIFY = (
    "Name,Email,Financial Status,Paid at,Accepts Marketing,Currency,Total,Created at,Lineitem quantity,"
    "Lineitem name,Lineitem price,Lineitem sku,Phone,Cancelled at,Id,Vendor"
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def em(address: str) -> str:
    return sha256(address.encode()).hexdigest()


async def members(warehouse: Warehouse, rule: Rule) -> set[str]:
    query = compile.members(rule, site_id=1, now_ms=now_ms())
    return {row["em"].hex() for row in await warehouse.select(query.sql, query.params)}


# --- from a file to an audience ----------------------------------------------------------------------


async def test_an_order_of_last_year_is_in_the_profile_and_in_win_back(place: Place, warehouse: Warehouse) -> None:
    rows = [
        ("1", stamp(365), "ann@shop.example", "49.90", "completed"),
        ("2", stamp(350), "bob@shop.example", "20.00", "refunded"),
        ("3", stamp(10), "cid@shop.example", "30.00", "processing"),
        ("4", stamp(340), "dee@shop.example", "30.00", "cancelled"),
    ]
    path = place.write("o.csv", csv(("order_number", "order_date", "billing_email", "order_total", "status"), *rows))
    report = await place.take("orders", path)
    assert (report.finished, report.rows, report.events, report.durable, report.refused) == (True, 4, 6, 6, {})
    await place.load(warehouse)

    [profile] = await warehouse.select(
        "SELECT last_order, tupleElement(orders, 'value') AS paid FROM visitor_profile FINAL "
        "WHERE em.2 = unhex({em:String})",
        {"em": em("ann@shop.example")},
    )
    assert profile["last_order"].timestamp() * 1000 == pytest.approx(now_ms() - 365 * DAY_MS, abs=300_000)
    assert [float(paid) for paid in profile["paid"]] == [49.9]
    win_back = templates.template("win_back").rule()
    assert await members(warehouse, win_back) == {em("ann@shop.example")}

    # the shop gives the money back today
    late = place.write("late.csv", csv(("order_id", "time", "status"), ("1", "", "refunded")))
    assert (await place.take("orders", late)).refused == {"missing_field": 1}  # when?
    late.write_text(csv(("order_id", "time", "status", "cancelled at"), ("1", "", "refunded", stamp(0))))
    assert (await place.take("orders", late)).durable == 1
    await place.load(warehouse)
    assert await members(warehouse, win_back) == set()

    # and everything once more: nothing is doubled
    assert (await place.take("orders", path)).durable == 6
    await place.load(warehouse)
    [counted] = await warehouse.select(
        "SELECT count() AS n, uniq(event_key) AS once, "
        "(SELECT sum(length(orders)) FROM visitor_profile FINAL) AS orders FROM events FINAL"
    )
    assert counted == {"n": 7, "once": 7, "orders": 4}


async def test_load_starts_again_where_nothing_but_old_history_was_loaded(place: Place, warehouse: Warehouse) -> None:
    rows = [(str(n), stamp(900), f"p{n}@shop.example", "9.50") for n in range(3)]
    path = place.write("o.csv", csv(("order_number", "order_date", "billing_email", "order_total"), *rows))
    assert (await place.take("orders", path)).durable == 3
    people = "count() AS n FROM visitor_profile FINAL"
    await place.load(warehouse, people)
    await warehouse.command("OPTIMIZE TABLE events FINAL")
    assert await warehouse.select("SELECT 1 FROM events") == []  # older than what is kept

    more = place.write("more.csv", csv(("order_id", "time", "email"), ("9", stamp(2), "new@shop.example")))
    await place.take("orders", more)
    await place.load(warehouse, "count() + 3 AS n FROM events")


async def test_a_dry_run_says_everything_and_stores_nothing(place: Place) -> None:
    rows = [
        ("1", stamp(9), "ann@shop.example", ""),
        ("2", stamp(8), "bob@shop.example", "9.50"),
        ("3", "soon", "", "1"),
    ]
    path = place.write("o.csv", csv(("order_number", "order_date", "billing_email", "order_total"), *rows))
    dry = await place.take("orders", path, dry_run=True)
    assert (
        place.said[0]
        == "columns: order_id from order_number, time from order_date, value from order_total, em from billing_email"
    )
    assert (dry.finished, dry.valid, dry.durable, dry.refused, dry.without_value) == (True, 2, 0, {"bad_value": 1}, 1)
    assert not any(bounds.end for _, bounds in (await place.log.inspect("looker", [EVENTS])).values())
    real = await place.take("orders", path)
    assert (real.valid, real.durable, real.refused) == (2, 2, dry.refused)


async def test_a_german_file_is_understood_as_it_is(place: Place) -> None:
    text = (
        "Bestellnummer;Bestelldatum;E-Mail-Adresse;Gesamtbetrag;Währung;Bestellstatus;Artikel;Menge\n"
        "A-1;3.11.2026;ann@shop.example;1.234,50 €;EUR;bezahlt;Stuhl;2\n"
        "A-2;04.11.2026 18:05;bob@shop.example;9,90;EUR;erstattet;Tasse;1\n"
    )
    at_ms = int(datetime(2026, 11, 22, tzinfo=UTC).timestamp() * 1000)
    report = await place.take("orders", place.write("o.csv", text), at_ms=at_ms)
    assert (report.events, report.durable, report.without_value) == (3, 3, 0)
    first, *_, last = await place.stored()
    assert (first["order_id"], first["value"], first["line_items"][0]["product_name"]) == ("A-1", 1234.5, "Stuhl")
    assert datetime.fromtimestamp(first["time"] / 1000, UTC) == datetime(2026, 11, 3, tzinfo=UTC)
    assert datetime.fromtimestamp(last["time"] / 1000, UTC) == datetime(2026, 11, 4, 18, 5, tzinfo=UTC)


async def test_of_shopify_the_column_that_is_the_orders_id_is_told(place: Place) -> None:
    path = place.write("o.csv", f"{SHOPIFY},\x1bNote,\n")
    await place.take("orders", path)
    assert place.said[0].startswith("columns: order_id from Id, ")
    assert place.said[0].endswith("; nothing from Paid at, ?Note")


async def test_columns_that_are_not_taken_are_named(place: Place) -> None:
    path = place.write("o.csv", csv(("order_id", "time", "Gesamt"), ("1", stamp(1), "5")))
    await place.take("orders", path)
    assert place.said[0] == "columns: order_id from order_id, time from time; nothing from Gesamt"


# --- what shops write --------------------------------------------------------------------------------


async def test_a_shopify_export(place: Place) -> None:
    at = stamp(30) + " +0200"
    path = place.write(
        "orders.csv",
        f"""{SHOPIFY}
#1001,Ann@shop.example,paid,{at},yes,EUR,69.80,{at},2,Red chair,29.95,RC-1,+49 151 23456789,,450001,Acme
#1001,Ann@shop.example,,,,,,{at},1,"Lamp, ""small"" one",9.90,L-1,,,,Acme
#1002,bob@shop.example,paid,{at},no,EUR,10.00,{at},1,Lamp,10.00,L-1,,,450002,Acme
#1003,cid@shop.example,refunded,{at},yes,EUR,10.00,{at},1,Lamp,10.00,L-1,,{at},450003,Acme
""",
    )
    report = await place.take("orders", path, Reading())
    assert (report.rows, report.events, report.durable, report.dropped) == (4, 4, 3, {"consent": 1})
    first, *others = sorted(await place.stored(), key=lambda event: (event["order_id"], event["event"]))
    assert (first["event"], first["event_id"], first["order_id"]) == ("checkout", "450001", "450001")
    assert (first["value"], first["em"], first["ph"]) == (69.8, em("ann@shop.example"), digest("4915123456789"))
    assert [(each["product_id"], each["product_quantity"]) for each in first["line_items"]] == [("RC-1", 2), ("L-1", 1)]
    assert first["line_items"][1]["product_name"] == 'Lamp, "small" one'
    assert first["time"] == pytest.approx(now_ms() - 30 * DAY_MS - 7_200_000, abs=60_000)
    assert [(each["event"], each["event_id"]) for each in others] == [
        ("checkout", "450003"),
        ("order_refunded", "450003"),
    ]
    assert "em" not in others[1] and "visitor_id" not in others[1]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("49.90", 49.9),
        ("49,90", 49.9),
        ("1.234,50", 1234.5),
        ("1,234.50", 1234.5),
        ("€ 49,90", 49.9),
        ("1,234", 1234),
        ("1 234,56", 1234.56),
        ("1\u202f234\u202f567,80\u00a0€", 1_234_567.8),
        ("1'234.50", 1234.5),
        ("12 345", 12345),
        ("0,999", 0.999),
        ("0.999", 0.999),
    ],
)
async def test_money_as_shops_write_it(place: Place, cell: str, value: float) -> None:
    path = place.write("o.csv", f"order_id;time;total\n1;{stamp(1)};{cell}\n")
    await place.take("orders", path)
    assert [event["value"] for event in await place.stored()] == [value]


@pytest.mark.parametrize("cell", ["0,999.50", "0.999,50", "1 23,45", "1.234 567,80", "12 3456", "1,234,5"])
async def test_money_that_can_be_read_in_no_way_is_refused(place: Place, cell: str) -> None:
    report = await place.take("orders", place.write("o.csv", f"order_id;time;total\n1;{stamp(1)};{cell}\n"))
    assert [(bad.line, bad.reason) for bad in report.bad] == [(2, "bad_type")]


@pytest.mark.parametrize(
    ("cell", "changes", "expected_ms"),
    [
        ("1767225600", {}, 1_767_225_600_000),
        ("1767225600123", {}, 1_767_225_600_123),
        ("2026-01-01", {}, 1_767_225_600_000),
        ("2026-01-01T00:00:00Z", {}, 1_767_225_600_000),
        ("2026-01-01 01:00:00 +0100", {}, 1_767_225_600_000),
        ("2026-01-01 00:00:00 UTC", {}, 1_767_225_600_000),
        ("2026-01-01 01:00:00", {"time_zone": "Europe/Paris"}, 1_767_225_600_000),
        ("01/01/2026 01:00", {"time_zone": "Europe/Paris", "time_format": "%d/%m/%Y %H:%M"}, 1_767_225_600_000),
    ],
)
async def test_times_as_shops_write_them(place: Place, cell: str, changes: dict[str, str], expected_ms: int) -> None:
    path = place.write("o.csv", csv(("order_id", "time"), ("1", cell)))
    how = reading([], "yes", **{"time_zone": "UTC", "time_format": "", **changes})
    await place.take("orders", path, how, at_ms=1_767_225_600_000 + DAY_MS)
    assert [event["time"] for event in await place.stored()] == [expected_ms]


async def test_columns_are_mapped_and_missing_ones_named(place: Place) -> None:
    path = place.write("o.csv", csv(("Beleg", "Datum", "Mail", "total"), ("R-1", stamp(3), "ann@shop.example", "5")))
    with pytest.raises(Refused, match=r"--column order_id=.*Beleg, Datum"):
        await place.take("orders", path)
    columns = {"order_id": "Beleg", "time": "Datum", "em": "Mail", "value": ""}
    await place.take("orders", path, Reading(columns=columns, consent="yes"))
    [event] = await place.stored()
    assert (event["order_id"], event["em"], event.get("value")) == ("R-1", em("ann@shop.example"), None)
    for wrong in ({"colour": "Mail"}, {"em": "E-Mail"}):
        with pytest.raises(Refused):
            await place.take("orders", path, Reading(columns=wrong))


async def test_events_as_lines_of_json_and_in_columns(place: Place) -> None:
    lines = [
        {"event": "AddToCart", "time": now_ms() - DAY_MS, "user": {"em": "ann@shop.example"}, "colour": "red"},
        {"event": "search", "time": stamp(2), "em": "ann@shop.example", "sent_at": 1, "event_id": "s-1"},
        {"event": "checkout", "time": stamp(3), "order_id": "A-1"},
    ]
    path = place.write("e.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    report = await place.take("events", path)
    assert (report.durable, report.refused) == (3, {})
    stored = await place.stored()
    assert [event["event"] for event in stored] == ["checkout", "search", "add_to_cart"]  # by time
    assert [event["event_id"] for event in stored[:2]] == ["A-1", "s-1"]
    assert stored[2]["props"] == {"colour": "red"} and stored[2]["em"] == em("ann@shop.example")
    columns = place.write("e.csv", csv(("event", "time", "email", "event_id"), ("search", stamp(2), "a@b.de", "s-2")))
    await place.take("events", columns, Reading(columns={"em": "email"}, consent="yes"))
    assert {event.get("em") for event in await place.stored() if event["event_id"] == "s-2"} == {em("a@b.de")}


async def test_an_event_without_id_gets_the_same_one_in_every_run(place: Place) -> None:
    row = {"event": "search", "time": now_ms() - DAY_MS, "em": "ann@shop.example"}
    other = row | {"em": "bob@shop.example"}
    path = place.write("e.jsonl", "\n".join(map(json.dumps, (row, other, dict(reversed(row.items()))))))
    await place.take("events", path)
    again = place.write("again.jsonl", json.dumps(row))
    await place.take("events", again)
    ids = [event["event_id"] for event in await place.stored()]
    assert (len(ids), len(set(ids))) == (4, 2)
    assert all(em("ann@shop.example") not in name and "@" not in name for name in ids)


# --- what is refused, and what is dropped ------------------------------------------------------------


async def test_bad_rows_are_counted_and_named_and_cost_no_others(place: Place) -> None:
    good = f"{stamp(5)},ann@shop.example,5"
    head = b"order_id,time,email,total\n"
    lines = [
        f"1,{good}",
        f"2,{stamp(5)},not-an-address,5",
        "3,yesterday,ann@shop.example,5",
        f",{good}",
        f"5,{stamp(5)},ann@shop.example,-5",
        f"6,{stamp(5)},{'d' * 32},5",
        f'7,{stamp(5)},ann@shop.example,"5"x',
        f"8,{good}",
    ]
    path = place.write("o.csv", head + "\n".join(lines).encode() + b"\n9,\xff,a@b.de,5\n")
    report = await place.take("orders", path)
    assert (report.rows, report.events, report.durable) == (9, 9, 2)
    found = {bad.line: bad.reason for bad in report.bad}
    assert found == {
        3: "bad_value",
        4: "bad_value",
        5: "missing_field",
        6: "out_of_range",
        7: "bad_hash",
        8: "bad_value",
        10: "bad_text",
    }
    assert report.bad == place.bad and set(found.values()) <= REASONS.keys()
    assert report.refused == {"bad_value": 3, "missing_field": 1, "out_of_range": 1, "bad_hash": 1, "bad_text": 1}
    assert not any("@" in bad.hint or "yesterday" in bad.hint for bad in report.bad)


async def test_a_line_past_its_bound_is_one_bad_row(place: Place) -> None:
    fill = "x" * (2 << 20)
    line = json.dumps({"event": "search", "time": now_ms()})
    path = place.write("e.jsonl", f'{line}\n{{"event":"{fill}"}}\n{line[:-1]}, "event_id": "b"}}\n')
    report = await place.take("events", path)
    assert [(bad.line, bad.reason) for bad in report.bad] == [(2, "too_long")]
    assert report.durable == 2


async def test_without_consent_nothing_is_stored_and_people_who_are_gone_stay_away(place: Place) -> None:
    people = [("1", "ann@shop.example", ""), ("2", "bob@shop.example", "yes"), ("3", "", "no")]
    rows = [(number, stamp(5), *person) for number, *person in people]
    path = place.write("o.csv", csv(("order_id", "time", "email", "consent"), *rows))
    report = await place.take("orders", path, Reading(), suppressed=frozenset({em("bob@shop.example")}))
    assert (report.events, report.durable, report.dropped) == (3, 0, {"consent": 2, "suppressed": 1})
    assert b"ann@" not in b"".join(file.read_bytes() for file in (place.folder / "imports").iterdir())


async def test_a_visitors_no_of_long_ago_is_taken_as_of_then_and_once(place: Place) -> None:
    visitor, ago = "019a63f2-7c1e-7d0a-9b42-5f2c1d8e9a10", stamp(90)
    row = {"event": "page_visit", "visitor_id": visitor, "time": ago, "consent": "no"}
    path = place.write("e.jsonl", json.dumps(row) + "\n")
    for _ in range(2):
        report = await place.take("events", path, Reading())
        assert (report.events, report.dropped, report.withdrawals, report.durable) == (1, {"consent": 1}, 1, 1)
    first, second = await place.stored()
    assert first == second | {"received_ms": first["received_ms"]}
    assert first["event"] == "consent_withdrawn"
    assert datetime.fromtimestamp(first["time"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") == ago


async def test_what_is_older_than_400_days_is_moved_and_counted(place: Place) -> None:
    at_ms = now_ms()
    path = place.write("o.csv", csv(("order_id", "time"), ("1", stamp(399)), ("2", stamp(900))))
    report = await place.take("orders", path, at_ms=at_ms)
    assert (report.durable, report.clamped) == (2, 1)
    assert (await place.stored())[0]["time"] == at_ms - 400 * DAY_MS


async def test_a_time_to_come_is_refused_with_its_line(place: Place) -> None:
    """A mix-up of day and month makes no recent buyer; and an order is taken whole."""
    at_ms = now_ms()
    rows = [
        ("1", stamp(-200, at_ms), ""),
        ("2", stamp(-4 / 1440, at_ms), ""),
        ("3", stamp(10, at_ms), stamp(-200, at_ms)),
        ("4", stamp(10, at_ms), stamp(5, at_ms)),
    ]
    path = place.write("o.csv", csv(("order_id", "time", "cancelled at"), *rows))
    report = await place.take("orders", path, at_ms=at_ms)
    assert (report.events, report.durable, report.clamped, report.refused) == (5, 3, 0, {"out_of_range": 2})
    assert [(bad.line, bad.reason, bad.field) for bad in report.bad] == [
        (2, "out_of_range", "time"),
        (4, "out_of_range", "cancelled_at"),
    ]
    assert {event["order_id"] for event in await place.stored()} == {"2", "4"}
    path = place.write("e.csv", csv(("event", "time"), ("search", stamp(-1, at_ms)), ("search", stamp(1, at_ms))))
    report = await place.take("events", path, at_ms=at_ms)
    assert (report.durable, [(bad.line, bad.reason) for bad in report.bad]) == (1, [(2, "out_of_range")])


# --- stops, and going on -----------------------------------------------------------------------------


def many(count: int) -> str:
    start = now_ms() - 300 * DAY_MS
    rows = [(number, start + (number * 7919) % count * 1000, f"c{number}@shop.example", 5) for number in range(count)]
    return csv(("order_id", "time", "email", "total"), *rows)


async def test_a_stopped_import_goes_on_where_it_was(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "SAY_EVERY_S", 0.0)
    path = place.write("o.csv", many(5000))
    stop = asyncio.Event()
    said = place.said.append

    class Stopping(list[str]):
        def append(self, line: str) -> None:
            said(line)
            if line.startswith("appended"):
                stop.set()

    place.said = Stopping()
    first = await place.take("orders", path, stop=stop, run_bytes=200_000)
    assert not first.finished and 0 < first.durable < 5000
    second = await place.take("orders", path, run_bytes=200_000)
    assert (second.finished, second.durable, second.earlier) == (True, 5000, first.durable)
    stored = await place.stored()
    assert sorted(int(event["event_id"]) for event in stored) == list(range(5000))
    times = [event["time"] for event in stored]
    assert times == sorted(times)
    assert list((place.folder / "imports").iterdir()) == []


@pytest.mark.slow
async def test_a_killed_import_loses_and_doubles_nothing(place: Place) -> None:
    """The log is full in the middle of it; then kill -9, room in the log, and the same command again."""
    data = place.folder
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PINSTREAM_")}
    environment = clean | {"PINSTREAM_DATA_DIR": str(data), "PINSTREAM_SITE__TAG_ID": "shop"}
    path = place.write("o.csv", many(8000))
    command = [sys.executable, "-m", "pinstream", "import", "orders", str(path), "--site", "shop", "--consent", "yes"]
    full = environment | {"PINSTREAM_LOG__JOURNAL_MAX_BYTES": str(1 << 20)}
    with subprocess.Popen(command, env=full, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "waiting for the log" in line:
                break
        process.send_signal(signal.SIGKILL)
    [kept] = (data / "imports").iterdir()
    assert kept.suffix == ".json"
    done = subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["finished"] and report["durable"] == 8000 and 0 < report["earlier"] < 8000
    assert sorted(int(event["event_id"]) for event in await place.stored()) == list(range(8000))


# --- memory ------------------------------------------------------------------------------------------


def entry(number: int) -> Entry:
    return Entry((number * 7919) % 5003, "search", f"{number}", number, b"v" * 50)


def test_runs_are_merged_in_bounded_files(tmp_path: Path) -> None:
    sorter = Sorter(tmp_path, run_bytes=5_000, max_runs=4)
    for number in range(2_000):
        sorter.put(entry(number))
        assert len(sorter._runs) < 4 and sorter._held_bytes < 5_000
    found = list(sorter.ordered())
    sorter.close()
    assert found == sorted(map(entry, range(2_000)))
    assert list(tmp_path.iterdir()) == [] and MAX_RUNS < 256


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Twice as many rows as are held at a time, in a process of its own: not a tenth more of memory."""
    script = f"""
import asyncio, resource, sys
from pathlib import Path
from tests.history.place import Place
from tests.history.test_importing import many
place = Place(Path(sys.argv[1]))
peaks = []
for count in (3_000, 12_000):
    path = place.write(f"{{count}}.csv", many(count))
    report = asyncio.run(place.take("orders", path, run_bytes={1 << 20}))
    assert report.durable == count
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] / peaks[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.1


async def test_a_log_that_takes_nothing_is_waited_for_and_then_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "PATIENCE_S", 0.5)
    monkeypatch.setattr(importing, "PAUSE_S", 0.05)
    monkeypatch.setattr(importing, "SAY_EVERY_S", 0.0)
    place.log = JournalLog(place.folder / "journal", Log(journal_max_bytes=1 << 20))
    path = place.write("o.csv", many(8000))
    with pytest.raises(Retryable, match="journal_max_bytes"):
        await place.take("orders", path)
    assert any("waiting for the log" in line for line in place.said)


async def test_the_words_of_shops_for_orders_that_came_to_nothing(place: Place) -> None:
    words = [
        "remboursée",
        "Storniert",
        "wc-refunded",
        "Partially Refunded",
        "Geld zurück",
        "Geld zurück",
        "a@b.example",
    ]
    rows = [(f"{n}", stamp(10), "9.90", word, "yes") for n, word in enumerate(words)]
    path = place.write("o.csv", csv(("order_id", "time", "value", "status", "consent"), *rows))
    report = await place.take("orders", path)
    assert (report.durable, report.unknown_states) == (7 + 3, {"geld zurück": 2, "other": 1})
    told = await place.take("orders", path, reading([], "", "UTC", "", ["refunded=Geld zurück", "placed=a@b.example"]))
    assert (told.durable, told.unknown_states) == (7 + 5, {})
    for wrong in ("refunded", "lost=weg", "refunded="):
        with pytest.raises(Refused, match="--status"):
            reading([], "", "UTC", "", [wrong])
