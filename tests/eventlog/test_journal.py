"""The journal against what happens to files and processes: kill -9, damage, full disks, its size bound."""

import asyncio
import contextlib
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pinstream.errors import Fatal, Fenced, LogError, PositionLost, Retryable, SetupFault
from pinstream.eventlog import journal_file as files
from pinstream.eventlog import journal_mend, journal_writer
from pinstream.eventlog.contract import Consumer, Intent, Partition, Position, Record, Stored
from pinstream.eventlog.journal import JournalLog
from pinstream.eventlog.journal_trim import Progress, read_below
from pinstream.eventlog.journal_writer import JournalAppender
from pinstream.settings import Log as LogSettings

from .place import owning, read, start
from .writer import TOPIC, value

pytestmark = pytest.mark.slow

HERE = Partition(TOPIC, 0)


def journal(folder: Path, **settings: Any) -> JournalLog:
    return JournalLog(folder, LogSettings(**settings), lease_s=2)


async def everything(folder: Path, group: str = "count") -> list[Stored]:
    consumer = await journal(folder).consumer(group, [TOPIC])
    found: list[Stored] = []
    try:
        await owning(consumer)
        for partition in consumer.assignment():
            consumer.seek(partition, (await consumer.bounds(partition)).first)
        while got := await consumer.poll(timeout_s=0.2, max_records=5000):
            found += [row for rows in got.values() for row in rows]
    finally:
        await consumer.aclose()
    return found


def numbers(rows: list[Stored]) -> list[int]:
    return [int(row.value.split()[0]) for row in rows]


# --- kill -9 ---------------------------------------------------------------------------------------


def written_until_killed(folder: Path, first: int, groups: int, more_s: float = 0.0) -> list[int]:
    """Numbers that a writer process was told are durable before it was killed, `more_s` after so many appends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.eventlog.writer", str(folder), str(first)], stdout=subprocess.PIPE
    )
    assert process.stdout
    said = [process.stdout.readline() for _ in range(groups)]
    time.sleep(more_s)
    process.kill()
    said += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    acked: list[int] = []
    for line in said:
        if line.endswith(b"\n"):
            begin, end = map(int, line.split())
            acked += range(begin, end + 1)
    return acked


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acked: list[int] = []
    for round_ in range(3):
        acked += written_until_killed(tmp_path, round_ * 1_000_000, 40 + round_, 0.001 * round_)
    rows = await everything(tmp_path)
    assert len(acked) > 1000
    assert set(acked) <= set(numbers(rows))
    assert all(row.value == value(number) for row, number in zip(rows, numbers(rows), strict=True))
    offsets = [row.offset for row in rows]
    assert offsets == sorted(set(offsets))
    assert files.numbers(tmp_path) == [0], "the dead writer's file was adopted"


# --- writers ---------------------------------------------------------------------------------------


async def test_two_writers_have_a_file_each_and_a_successor_adopts(tmp_path: Path) -> None:
    one, two = await journal(tmp_path).appender(), await journal(tmp_path).appender()
    assert (one.number, two.number) == (0, 1)
    await one.aclose()
    third = await journal(tmp_path).appender()
    assert third.number == 0
    await asyncio.gather(two.aclose(), third.aclose())


async def test_a_running_group_finds_a_new_file(tmp_path: Path) -> None:
    one = await journal(tmp_path).appender()
    consumer = await journal(tmp_path).consumer("g", [TOPIC])
    await start(consumer)
    generation = consumer.generation
    two = await journal(tmp_path).appender()
    await two.append([Record(TOPIC, 1, value(7))])
    async with asyncio.timeout(5):
        while len(consumer.assignment()) < 2:
            await consumer.poll(timeout_s=0.1, max_records=1)
    assert consumer.generation > generation
    await start(consumer)
    assert set(await read(consumer, 1)) == {Partition(TOPIC, 1)}
    await asyncio.gather(one.aclose(), two.aclose(), consumer.aclose())


async def test_more_writers_than_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 2)
    both = [await journal(tmp_path).appender(), await journal(tmp_path).appender()]
    with pytest.raises(SetupFault, match="fewer workers"):
        await journal(tmp_path).appender()
    await asyncio.gather(*(each.aclose() for each in both))


async def test_offsets_go_on_after_an_orderly_end_and_jump_after_a_crash(tmp_path: Path) -> None:
    for number in range(2):
        appender = await journal(tmp_path).appender()
        await appender.append([Record(TOPIC, 1, value(number))])
        await appender.aclose()
    assert [row.offset for row in await everything(tmp_path)] == [1, 2]
    last = len(written_until_killed(tmp_path, 100, 5)) + 2
    appender = await journal(tmp_path).appender()
    await appender.append([Record(TOPIC, 1, value(3))])
    await appender.aclose()
    assert last < (await everything(tmp_path, "again"))[-1].offset <= last + 2 * files.RESERVE_RECORDS


async def test_a_closed_appender_refuses(tmp_path: Path) -> None:
    appender = await journal(tmp_path).appender()
    await appender.aclose()
    with pytest.raises(Retryable):
        await appender.append([Record(TOPIC, 1, b"late")])
    with pytest.raises(Fatal):
        await appender.ready()


async def test_one_bad_append_does_not_take_its_neighbours_along(tmp_path: Path) -> None:
    appender = await journal(tmp_path).appender()
    bad = Record(TOPIC, 1, ["no", "bytes"])  # type: ignore[arg-type]
    results = await asyncio.gather(
        *(appender.append([bad if n == 5 else Record(TOPIC, 1, value(n))]) for n in range(10)), return_exceptions=True
    )
    await appender.aclose()
    assert [type(each) for each in results] == [Fatal if n == 5 else type(None) for n in range(10)]
    assert numbers(await everything(tmp_path)) == [n for n in range(10) if n != 5]


async def test_too_many_waiting_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "WAITING_BYTES", 3 * (1000 + journal_writer.RECORD_OVERHEAD_BYTES))
    appender = await journal(tmp_path).appender()
    blocker = sqlite3.connect(tmp_path / "0.journal", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    first = asyncio.ensure_future(appender.append([Record(TOPIC, 1, b"x" * 1000)]))
    await asyncio.sleep(0.2)  # its commit waits for the other transaction
    more = [asyncio.ensure_future(appender.append([Record(TOPIC, 1, b"x" * 1000)])) for _ in range(4)]
    await asyncio.sleep(0.1)
    assert [each.done() for each in more] == [False, False, False, True]
    with pytest.raises(Retryable) as refused:
        await more[3]
    assert refused.value.reason == "log_full"
    blocker.execute("COMMIT")
    blocker.close()
    await asyncio.gather(first, *more[:3])
    await appender.aclose()


# --- damage ----------------------------------------------------------------------------------------

PAGE = files.PAGE_BYTES


def cut_wal(path: Path) -> None:
    wal = files.wal(path)
    os.truncate(wal, wal.stat().st_size // 2 + 1000)


def garbage_after_wal(path: Path) -> None:
    with files.wal(path).open("ab") as file:
        file.write(random.Random(1).randbytes(10_000))


def half_a_frame_after_wal(path: Path) -> None:
    wal = files.wal(path).read_bytes()
    files.wal(path).write_bytes(wal + wal[32 : 32 + 2000])


def zero_length(path: Path) -> None:
    path.write_bytes(b"")


def only_wal(path: Path) -> None:
    path.unlink()


def page_one_destroyed(path: Path) -> None:
    _overwrite(path, 0, 1)


def root_destroyed(path: Path) -> None:
    _overwrite(path, 1, 1)


def leaves_destroyed(path: Path) -> None:
    _overwrite(path, 40, 1)
    _overwrite(path, 60, 3)


def cut_in_the_middle(path: Path) -> None:
    os.truncate(path, 50 * PAGE + 100)


def only_garbage(path: Path) -> None:
    path.write_bytes(random.Random(2).randbytes(50_000))
    files.wal(path).unlink(missing_ok=True)


def _overwrite(path: Path, page: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(random.Random(page).randbytes(count * PAGE))


async def filled(folder: Path, *, checkpointed: bool) -> list[Stored]:
    """A journal as a killed writer leaves it, with a consumer's row; its records. Checkpointed: it has no WAL."""
    written_until_killed(folder, 0, 100)
    consumer = await journal(folder).consumer("g", [TOPIC])
    await start(consumer)
    await consumer.commit(HERE, 50, Intent(last=60, rollup_version=3, format=1))
    await consumer.aclose()
    assert not files.wal(folder / "0.journal").exists()
    if not checkpointed:
        written_until_killed(folder, 1_000_000, 60)
        assert files.wal(folder / "0.journal").exists()
    return await everything(Path(shutil.copytree(folder, folder.with_name(folder.name + "-before"))))


async def still_there(folder: Path) -> tuple[list[Stored], Stored]:
    """What is read after a new writer has opened the file, and the record it added."""
    appender = await journal(folder).appender()
    await appender.append([Record(TOPIC, 1, b"-1 new")])
    await appender.ready()
    await appender.aclose()
    *rows, new = await everything(folder, "after")
    assert new.value == b"-1 new"
    return rows, new


@pytest.mark.parametrize(
    ("damage", "checkpointed", "share"),
    [
        (garbage_after_wal, False, 1.0),
        (half_a_frame_after_wal, False, 1.0),
        (cut_wal, False, 0.2),
        (page_one_destroyed, True, 1.0),
        (page_one_destroyed, False, 1.0),
        (root_destroyed, True, 1.0),
        (leaves_destroyed, True, 0.9),
        (cut_in_the_middle, True, 0.01),
        (zero_length, True, 0.0),
        (only_garbage, True, 0.0),
    ],
)
async def test_a_damaged_file_opens_with_all_that_is_readable(
    tmp_path: Path, damage: Callable[[Path], None], checkpointed: bool, share: float
) -> None:
    before = await filled(tmp_path, checkpointed=checkpointed)
    damage(tmp_path / "0.journal")
    after, new = await still_there(tmp_path)
    assert set(after) <= set(before), "the same offsets, the same bytes"
    assert len(before) > 1000
    assert len(after) >= share * len(before)
    assert new.offset > before[-1].offset


@pytest.mark.parametrize("damage", [zero_length, only_wal])
async def test_a_lost_database_comes_back_from_its_wal(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    appender = await journal(tmp_path).appender()
    for number in range(20):
        await appender.append([Record(TOPIC, 1, value(number))])
    wal = files.wal(tmp_path / "0.journal").read_bytes()
    await appender.aclose()
    files.wal(tmp_path / "0.journal").write_bytes(wal)
    damage(tmp_path / "0.journal")
    after, new = await still_there(tmp_path)
    assert numbers(after) == list(range(20))
    assert new.offset > 20


async def test_positions_survive_where_their_page_does(tmp_path: Path) -> None:
    await filled(tmp_path, checkpointed=True)
    leaves_destroyed(tmp_path / "0.journal")
    await (await journal(tmp_path).appender()).aclose()
    consumer = await journal(tmp_path).consumer("g", [TOPIC])
    await owning(consumer)
    assert await consumer.position(HERE) == Position(50, Intent(last=60, rollup_version=3, format=1))
    await consumer.aclose()


async def test_the_damaged_file_is_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await filled(tmp_path, checkpointed=True)
    leaves_destroyed(tmp_path / "0.journal")
    damaged = (tmp_path / "0.journal").read_bytes()
    await still_there(tmp_path)
    (aside,) = tmp_path.glob("0.journal.corrupt-*")
    assert aside.read_bytes() == damaged
    (told,) = (record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    assert aside.name in told
    assert "readable records were taken over" in told
    assert {path.name for path in tmp_path.iterdir()} == {"0.journal", "0.lock", aside.name}


@pytest.mark.parametrize("asked", ["append", "call"])
async def test_whoever_waits_is_told_when_a_damaged_file_cannot_be_mended(
    tmp_path: Path, asked: str, caplog: pytest.LogCaptureFixture
) -> None:
    appender = await JournalLog(tmp_path, LogSettings()).appender()
    await appender.append([Record(TOPIC, 1, value(number)) for number in range(100)])
    path = tmp_path / "0.journal"
    with contextlib.closing(files.connect(path)) as other:  # what the writer has in memory is no longer the newest
        other.execute("INSERT INTO trimmed VALUES ('elsewhere', 1)")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    _overwrite(path, 1, path.stat().st_size // PAGE - 1)
    (tmp_path / "0.copy").mkdir()  # where mending would put its copy
    async with asyncio.timeout(20):
        with pytest.raises(Retryable):
            if asked == "append":
                await asyncio.gather(*(appender.append([Record(TOPIC, 1, value(number))]) for number in range(3)))
            else:
                await appender.call(lambda connection: connection.execute("SELECT * FROM record").fetchall())
        with pytest.raises(Retryable, match="stopped"):
            await appender.append([Record(TOPIC, 1, b"later")])
        await appender.aclose()
        with pytest.raises(Fatal, match="Restart"):
            await appender.ready()
    assert "cannot be written any more" in caplog.text


async def test_a_mending_that_died_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = await filled(tmp_path, checkpointed=True)
    leaves_destroyed(tmp_path / "0.journal")

    def die(*_: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(journal_mend, "_put_in_place", die)
        with pytest.raises(KeyboardInterrupt):
            journal(tmp_path)._open_appender()
    assert (tmp_path / "0.mended").exists()
    (tmp_path / "0.journal").rename(tmp_path / "moved")  # as if it died between the two renames
    after, _ = await still_there(tmp_path)
    assert len(after) > 0.9 * len(before)
    assert not list(tmp_path.glob("0.mend*"))


async def test_a_reader_follows_when_its_file_is_replaced(tmp_path: Path) -> None:
    appender = await journal(tmp_path).appender()
    await appender.append([Record(TOPIC, 1, value(number)) for number in range(500)])
    await appender.aclose()
    consumer = await journal(tmp_path).consumer("g", [TOPIC])
    await start(consumer)
    rows = (await read(consumer, 500))[HERE]
    await consumer.commit(HERE, rows[10].offset, Intent(last=20, rollup_version=1, format=1))
    generation = consumer.generation
    lock = files.WriterLock(tmp_path, 0)
    journal_mend._mend(tmp_path / "0.journal", lock, "so says this test")
    lock.release()
    with pytest.raises(Fenced):
        await consumer.commit(HERE, rows[400].offset, None)
    assert consumer.generation > generation
    positions = await start(consumer)
    assert positions[HERE] == Position(rows[10].offset, Intent(last=20, rollup_version=1, format=1))
    assert (await read(consumer, 490))[HERE] == rows[10:]
    await consumer.aclose()


async def test_no_commit_while_a_file_is_being_mended(tmp_path: Path) -> None:
    appender = await journal(tmp_path).appender()
    consumer = await journal(tmp_path).consumer("g", [TOPIC])
    await start(consumer)
    with files.folder_lock(tmp_path, 2), pytest.raises(Retryable, match="mended"):  # LOCK_EX
        await consumer.commit(HERE, 1, None)
    await consumer.commit(HERE, 1, None)
    await asyncio.gather(appender.aclose(), consumer.aclose())


@pytest.mark.parametrize("damage", [only_garbage, zero_length, page_one_destroyed])
async def test_a_reader_mends_a_file_that_has_no_writer(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    before = await filled(tmp_path, checkpointed=True)
    damage(tmp_path / "0.journal")
    after = await everything(tmp_path, "after")
    assert len(after) == (len(before) if damage is page_one_destroyed else 0)


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    await (await journal(tmp_path).appender()).aclose()
    with sqlite3.connect(tmp_path / "0.journal") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (tmp_path / "0.journal").read_bytes()
    with pytest.raises(SetupFault, match="newer pinstream"):
        await journal(tmp_path).appender()
    assert (tmp_path / "0.journal").read_bytes() == before


@pytest.mark.parametrize("open_", ["appender", "consumer", "check"])
async def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path, open_: str) -> None:
    (tmp_path / "file").touch()
    log = journal(tmp_path / "file" / "journal")
    with pytest.raises(SetupFault, match="data_dir"):
        await (log.consumer("g", [TOPIC]) if open_ == "consumer" else getattr(log, open_)())


async def test_check_and_inspect(tmp_path: Path) -> None:
    log = journal(tmp_path / "later")
    await log.check()
    assert not (tmp_path / "later").exists()
    assert await log.inspect("g", [TOPIC]) == {}
    appender = await log.appender()
    await appender.append([Record(TOPIC, 1, b"1")])
    ((position, bounds),) = (await log.inspect("g", [TOPIC])).values()
    assert (position, bounds.end) == (Position(None, None), 2)
    await appender.aclose()
    only_garbage(tmp_path / "later" / "0.journal")
    with pytest.raises(LogError, match="damaged"):
        await log.check()


# --- disk full -------------------------------------------------------------------------------------


async def test_a_full_disk_is_retryable_and_heals(tmp_path: Path) -> None:
    """The kernel refuses to let a file grow, as it does when a quota or the disk is used up."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.eventlog.writer", str(tmp_path), "0", str(400_000)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.split("\n")
    assert said.count("log_full") == 1
    acked: list[int] = []
    for line in said:
        if line and line != "log_full":
            begin, end = map(int, line.split())
            acked += range(begin, end + 1)
    assert numbers(await everything(tmp_path)) == acked


async def test_a_full_database_is_log_full(tmp_path: Path) -> None:
    appender = await journal(tmp_path).appender()
    appender._connection.execute("PRAGMA max_page_count = 60")
    with pytest.raises(Retryable) as refused:
        await appender.append([Record(TOPIC, 1, b"x" * 500_000)])
    assert refused.value.reason == "log_full"
    with pytest.raises(Retryable) as unready:
        await appender.ready()
    assert unready.value.reason == "log_full"
    await appender.append([Record(TOPIC, 1, b"1")])
    await appender.ready()
    await appender.aclose()
    assert numbers(await everything(tmp_path)) == [1]


# --- size bound and deletion -----------------------------------------------------------------------

BOUND = 1 << 20


async def fill(appender: JournalAppender, count: int = 5000) -> int:
    """Append records of 2 kB until the log is full; how many were taken."""
    for number in range(count):
        try:
            await appender.append([Record(TOPIC, 1, b"%d " % number + b"x" * 2000)])
        except Retryable as exc:
            assert exc.reason == "log_full"
            assert "journal_max_bytes" in str(exc)
            return number
    return count


def fits(appender: JournalAppender) -> int:
    """The largest value that stays within the bound."""
    return appender._room() - journal_writer.RECORD_OVERHEAD_BYTES


async def test_at_the_size_bound_and_one_past(tmp_path: Path) -> None:
    appender = await journal(tmp_path, journal_max_bytes=BOUND).appender()
    with pytest.raises(Retryable) as refused:
        await appender.append([Record(TOPIC, 1, b"x" * (fits(appender) + 1))])
    assert refused.value.reason == "log_full"
    await appender.append([Record(TOPIC, 1, b"x" * fits(appender))])
    with pytest.raises(Retryable):
        await fill_to_the_brim(appender)
    await appender.aclose()
    assert sum(path.stat().st_size for path in tmp_path.glob("*.journal")) <= BOUND + 4 * PAGE


async def fill_to_the_brim(appender: JournalAppender) -> None:
    for _ in range(1000):
        await appender.append([Record(TOPIC, 1, b"x" * 100)])


async def test_what_nobody_has_read_is_never_deleted(tmp_path: Path) -> None:
    appender = await journal(tmp_path, journal_max_bytes=BOUND, journal_keep_hours=0).appender()
    taken = await fill(appender)
    with pytest.raises(Retryable) as unready:
        await appender.ready()
    assert unready.value.reason == "log_full"
    await asyncio.sleep(1.5)
    await appender.aclose()
    assert numbers(await everything(tmp_path)) == list(range(taken))
    assert taken > 300


async def test_reading_makes_room_at_the_bound(tmp_path: Path) -> None:
    appender = await journal(tmp_path, journal_max_bytes=BOUND, journal_keep_hours=24).appender()
    taken = await fill(appender)
    consumer = await journal(tmp_path).consumer("load", [TOPIC])
    await start(consumer)
    rows = (await read(consumer, taken))[HERE]
    await consumer.commit(HERE, rows[100].offset, Intent(last=rows[200].offset, rollup_version=1, format=1))
    assert await fill(appender) > 50, "what was read is gone although it is young"
    bounds = await consumer.bounds(HERE)
    assert rows[0].offset < bounds.first <= rows[100].offset
    consumer.seek(HERE, rows[100].offset)
    assert (await consumer.poll(timeout_s=1, max_records=1))[HERE] == [rows[100]]
    consumer.seek(HERE, rows[0].offset)
    with pytest.raises(PositionLost):
        await consumer.poll(timeout_s=1, max_records=1)
    await asyncio.gather(appender.aclose(), consumer.aclose())


async def test_ready_again_once_readers_caught_up(tmp_path: Path) -> None:
    appender = await journal(tmp_path, journal_max_bytes=BOUND).appender()
    taken = await fill(appender)
    consumer = await journal(tmp_path).consumer("load", [TOPIC])
    await start(consumer)
    await read(consumer, taken)
    await consumer.commit(HERE, (await consumer.bounds(HERE)).end, None)
    async with asyncio.timeout(5):
        while True:
            try:
                await appender.ready()
            except Retryable:
                await asyncio.sleep(0.1)
            else:
                break
    await asyncio.gather(appender.aclose(), consumer.aclose())


async def test_the_bound_is_that_of_all_files(tmp_path: Path) -> None:
    one = await journal(tmp_path, journal_max_bytes=BOUND).appender()
    await fill(one)
    two = await journal(tmp_path, journal_max_bytes=BOUND).appender()
    with pytest.raises(Retryable):
        await two.append([Record(TOPIC, 1, b"x" * 2000)])
    await asyncio.gather(one.aclose(), two.aclose())


@pytest.mark.parametrize(("keep_hours", "left"), [(0.0, [3, 4]), (1.0, [0, 1, 2, 3, 4])])
async def test_read_records_go_when_they_are_old(tmp_path: Path, keep_hours: float, left: list[int]) -> None:
    appender = await journal(tmp_path, journal_keep_hours=keep_hours).appender()
    consumer = await journal(tmp_path).consumer("load", [TOPIC])
    await start(consumer)
    await appender.append([Record(TOPIC, 1, value(number)) for number in range(5)])
    await consumer.commit(HERE, 4, None)
    await asyncio.sleep(1.5)
    assert numbers(await everything(tmp_path)) == left
    assert (await consumer.bounds(HERE)).end == 6
    await consumer.commit(HERE, 6, None)
    await asyncio.sleep(1.5)
    bounds = await consumer.bounds(HERE)
    assert bounds.end == 6, "the end stays when all is deleted"
    assert (bounds.first == 6) == (keep_hours == 0)
    await asyncio.gather(appender.aclose(), consumer.aclose())


def progress(**offsets: dict[str, int | None]) -> list[Progress]:
    return [Progress(group, topic, offset) for group, rows in offsets.items() for topic, offset in rows.items()]


@pytest.mark.parametrize(
    ("rows", "enabled", "below"),
    [
        (progress(load={"t": 7}), ["load"], 7),
        (progress(load={"t": None}), ["load"], 0),
        (progress(), ["load"], 0),
        (progress(load={"t": 7}, forward={"t": 3}), ["load", "forward"], 3),
        (progress(load={"t": 7}, forward={"t": 3}), ["load"], 7),
        (progress(load={"t": 7}, forward={"other": 3}), ["load", "forward"], 7),
        (progress(load={"t": 7}), ["load", "forward"], 0),
        (progress(load={"other": 7}), ["load"], files.LAST_SEQ),
        (progress(stranger={"t": 7}), [], files.LAST_SEQ),
    ],
)
def test_what_every_enabled_group_has_read(rows: list[Progress], enabled: list[str], below: int) -> None:
    assert read_below(rows, enabled, "t") == below


# --- groups ----------------------------------------------------------------------------------------


async def test_a_lease_from_before_a_restart_of_the_machine_does_not_bind(tmp_path: Path) -> None:
    appender = await journal(tmp_path).appender()
    consumer: Consumer = await journal(tmp_path).consumer("g", [TOPIC])
    await start(consumer)
    with sqlite3.connect(tmp_path / "0.journal") as connection:
        connection.execute("UPDATE consumer SET lease_until_ms = lease_until_ms + 1000000000")
    connection.close()
    successor = await journal(tmp_path).consumer("g", [TOPIC])
    async with asyncio.timeout(1.5):
        await start(successor)
    with pytest.raises(Fenced):
        await consumer.commit(HERE, 1, None)
    assert consumer.assignment() == frozenset()
    await asyncio.gather(appender.aclose(), consumer.aclose(), successor.aclose())


async def test_a_poll_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pinstream.eventlog.journal_reader.READ_BYTES", 3000)
    appender = await journal(tmp_path).appender()
    consumer = await journal(tmp_path).consumer("g", [TOPIC])
    await start(consumer)
    await appender.append([Record(TOPIC, 1, b"x" * 1000) for _ in range(10)])
    assert len((await consumer.poll(timeout_s=1, max_records=100))[HERE]) == 3
    assert len((await read(consumer, 7))[HERE]) == 7
    await asyncio.gather(appender.aclose(), consumer.aclose())
