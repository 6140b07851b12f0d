"""What is broken in this set-up, and how to mend it.

Each check asks one part the question that its users depend on, and answers with a finding: what was seen, and
if that is a fault, the step that mends it. Checks change nothing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from pinstream import metrics, roles
from pinstream.clock import now_ms
from pinstream.errors import LogError, PinstreamError, SchemaBehind, SetupFault, WarehouseError
from pinstream.eventlog import open_log, spool_file
from pinstream.load import loop
from pinstream.pinterest.client import Client
from pinstream.settings import Settings
from pinstream.state.store import Store
from pinstream.supervisor import answers_ok, fetched
from pinstream.warehouse import migrate, queries

ClockMs = Callable[[], int]
MIN_FREE_BYTES: Final = 1 << 30
MAX_CLOCK_SKEW_MS: Final = 60_000
SPOOL_SHARE: Final = 0.5
"""Of its size bound: from here on a full spool is named."""
CHECK_S: Final = 20.0
"""A part that does not answer within this time is away."""


_FIXES: Final = {
    "warehouse": "Start ClickHouse (`pinstream warehouse` or `up` where it is embedded), or correct [warehouse]."
}
"""For errors that do not say it themselves, by check."""


class Finding(Struct, frozen=True):
    """One check's result."""

    check: str
    verdict: Literal["ok", "note", "fault"]
    """note: worth knowing, nothing to mend."""
    seen: str
    fix: str = ""


def fault(check: str, exc: PinstreamError, fix: str = "") -> Finding:
    """A finding from an error of ours, whose message says what to do already."""
    return Finding(check, "fault", str(exc), fix)


async def examine(
    settings: Settings, *, clock_ms: ClockMs = now_ms, min_free_bytes: int = MIN_FREE_BYTES
) -> list[Finding]:
    """Every check, one after the other; a part that is away spoils only its own checks. `clock_ms`: this machine's."""
    checks: list[tuple[str, Awaitable[list[Finding]]]] = [
        ("data folder", asyncio.to_thread(_data_dir, settings.data_dir, min_free_bytes)),
        ("state", _state(settings)),
        ("log", _log(settings)),
        ("spool", asyncio.to_thread(_spool, settings)),
        ("warehouse", _warehouse(settings, clock_ms)),
        ("pinterest", _pinterest(settings)),
        ("audiences", asyncio.to_thread(_failing, settings)),
        ("roles", _roles(settings)),
        ("counted", _counted(settings)),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += await asyncio.wait_for(check, CHECK_S)
        except PinstreamError as exc:
            findings.append(fault(name, exc, _FIXES.get(name, "")))
        except TimeoutError:
            fix = "Is it overloaded, or something between that swallows connections?"
            findings.append(Finding(name, "fault", f"No answer within {CHECK_S:.0f} s.", fix))
    return findings


def _data_dir(path: Path, min_free_bytes: int) -> list[Finding]:
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as exc:
        fix = f"Make {path} a folder that this user may write and that has room, or set data_dir."
        return [Finding("data folder", "fault", f"{there} cannot be written: {os.strerror(exc.errno or 0)}.", fix)]
    seen = f"{there}: {free / 1e9:.1f} GB free."
    if free < min_free_bytes:
        fix = f"Free disk space: below {min_free_bytes / 1e9:.1f} GB the log and ClickHouse soon refuse to write."
        return [Finding("disk", "fault", seen, fix)]
    return [Finding("disk", "ok", seen)]


async def _state(settings: Settings) -> list[Finding]:
    def look() -> int:
        store = Store.open(settings.state_url, upgrade=False)
        try:
            return len(store.sites())
        finally:
            store.close()

    sites = await asyncio.to_thread(look)
    if not sites:
        return [Finding("state", "fault", "There is no site, so every event is refused.", "Run `pinstream sites add`.")]
    return [Finding("state", "ok", f"{sites} site(s).")]


async def _log(settings: Settings) -> list[Finding]:
    """Can it be written, and do the stored positions fit it and the warehouse?"""
    log = open_log(settings)
    await log.check()
    findings = [Finding("log", "ok", f"{'Kafka' if settings.log.kind == 'kafka' else 'The journal'} takes records.")]
    for partition in await log.overdue(loop.GROUP, loop.TOPICS, now_ms=now_ms()):
        seen = f"{partition.topic}/{partition.number}: unread records are past half of the log's retention."
        findings.append(Finding("lag", "fault", seen, "Add `pinstream load`s, or raise retention.ms."))
    since_ms = settings.load.positions_from_ms
    standing = await log.inspect(loop.GROUP, loop.TOPICS)
    try:
        async with roles.open_warehouse(settings) as warehouse:
            newest = {each: await queries.newest_offset(warehouse, *each, since_ms=since_ms) for each in standing}
            blank = await queries.knows_nothing(warehouse)
    except (SetupFault, WarehouseError):
        return [*findings, Finding("positions", "note", "Not compared with ClickHouse, which does not answer.")]
    behind = 0
    for partition, (position, bounds) in standing.items():
        try:
            behind += bounds.end - loop.starting_offset(partition, position, bounds, newest[partition], blank=blank)
        except LogError as exc:
            findings.append(fault("positions", exc))
    return [*findings, Finding("positions", "ok", f"At most {behind} records wait to be loaded.")]


def _spool(settings: Settings) -> list[Finding]:
    """Is what Kafka has not taken on its way?"""
    found = spool_file.standing(settings.spool_dir)
    if not found and (settings.log.kind != "kafka" or not settings.log.spool):
        return []
    findings = []
    if left := sum(each.records for each in found if each.holder is None):
        seen = f"{left} records of processes that are gone wait in {settings.spool_dir}."
        findings.append(Finding("spool", "fault", seen, "Start collect, or run `pinstream spool drain`."))
    if refused := sum(each.refused for each in found):
        fix = "Its log says why; a topic's max.message.bytes must be 2065536 or more. Then restart collect."
        findings.append(Finding("spool", "fault", f"Kafka refuses {refused} spooled records, which stay there.", fix))
    if used := sum(each.used_bytes for each in found):
        share = used / settings.log.spool_max_bytes
        if share >= SPOOL_SHARE:
            seen = f"The spool is {share:.0%} full: at 100 % and without Kafka, events are refused."
            findings.append(Finding("spool", "fault", seen, "Start Kafka, or raise log.spool_max_bytes."))
    findings += [
        Finding(
            "spool", "fault", f"Spool file {each.file}: {each.damage}.", "Restart collect: it is mended when opened."
        )
        for each in found
        if each.damage
    ]
    return findings or [Finding("spool", "ok", f"{sum(each.records for each in found)} records wait for Kafka.")]


async def _warehouse(settings: Settings, now_ms: ClockMs) -> list[Finding]:
    async with roles.open_warehouse(settings) as warehouse:
        await warehouse.ping()
        try:
            await migrate.check(warehouse)
        except SchemaBehind as exc:
            return [Finding("warehouse", "ok", "ClickHouse answers."), fault("schema", exc)]
        rows = await warehouse.select("SELECT version() AS version, toUnixTimestamp64Milli(now64(3)) AS now_ms")
        findings = [Finding("warehouse", "ok", f"ClickHouse {rows[0]['version']}.")]
        newest = await queries.newest_received().rows(warehouse)
        received_ms = newest[0]["received_ms"] or 0
        findings += [Finding("schema", "ok", "Up to date."), clock(now_ms(), rows[0]["now_ms"], received_ms)]
        refused = await queries.refused_lately().rows(warehouse)
    if refused:
        counted = ", ".join(f"{row['reason']} {row['n']} times" for row in refused)
        findings.append(Finding("refused", "note", f"In the last hour: {counted}. docs/http-api.md says what to do."))
    return findings


def clock(here_ms: int, warehouse_ms: int, newest_ms: int) -> Finding:
    """Is this machine's clock right? Compared with ClickHouse's, and with the newest event it has stamped itself."""
    skew_s = (here_ms - warehouse_ms) / 1000
    fix = "Let the system keep time: on Debian `apt-get install systemd-timesyncd`, then `timedatectl set-ntp true`."
    if abs(here_ms - warehouse_ms) > MAX_CLOCK_SKEW_MS:
        return Finding("clock", "fault", f"This machine's clock and ClickHouse's differ by {skew_s:+.0f} s.", fix)
    if newest_ms > here_ms + MAX_CLOCK_SKEW_MS:
        ahead_s = (newest_ms - here_ms) / 1000
        return Finding("clock", "fault", f"The newest event was received {ahead_s:.0f} s in the future.", fix)
    return Finding("clock", "ok", f"Within {abs(skew_s):.1f} s of ClickHouse's.")


async def _pinterest(settings: Settings) -> list[Finding]:
    account = settings.pinterest.ad_account_id
    if not account:
        return [Finding("pinterest", "note", "pinterest.ad_account_id is empty: nothing is pushed.")]
    client = Client(settings.pinterest)
    try:
        await client.ad_account(account)
    finally:
        await client.aclose()
    return [Finding("pinterest", "ok", f"The token may use ad account {account}.")]


def _failing(settings: Settings) -> list[Finding]:
    """A note for each audience whose latest sync failed, or waits."""
    store = Store.open(settings.state_url, upgrade=False)
    try:
        names = {each.id: each.name for each in store.audiences()}
        links = [link for link in store.connections() if link.state in ("error", "held")]
    finally:
        store.close()
    return [
        Finding("audience", "note", f"{link.audience_id}, {names[link.audience_id]}: {link.state}. {link.detail}")
        for link in links
    ]


async def _roles(settings: Settings) -> list[Finding]:
    ports = {
        "collect": f"http://{settings.collect.ops_host}:{settings.collect.ops_port}/readyz",
        "load": f"http://127.0.0.1:{settings.load.ops_port}/readyz",
        "console": f"http://127.0.0.1:{settings.console.ops_port}/readyz",
    }
    if settings.pinterest.ad_account_id:
        ports["push"] = f"http://127.0.0.1:{settings.push.ops_port}/readyz"
    ready = {role: await answers_ok(url) for role, url in ports.items()}
    return [
        Finding(role, "ok", "Runs and is ready.")
        if is_ready
        else Finding(role, "note", f"Not running here, or not ready: {ports[role]} does not answer 200.")
        for role, is_ready in ready.items()
    ]


async def _counted(settings: Settings) -> list[Finding]:
    """What collect turned away since it started: drops by policy and most 429s are in no log."""
    answer = await fetched(f"http://{settings.collect.ops_host}:{settings.collect.ops_port}/metrics")
    if answer is None or answer.status != 200:
        return []
    try:
        text = answer.body.decode()
        groups = {
            "dropped": metrics.counted(text, metrics.DROPPED),
            "refused": metrics.counted(text, metrics.REFUSED),
            "above the limits, and taken": metrics.counted(text, metrics.RATE_LIMIT_DRY_RUN),
        }
    except ValueError:
        return [Finding("counted", "note", "What answers on collect's operations port does not tell metrics.")]
    told = "; ".join(
        f"{what} {', '.join(f'{reason} {events:.0f}' for reason, events in sorted(counts.items()))}"
        for what, counts in groups.items()
        if counts
    )
    return [Finding("counted", "note", f"Since collect started: {told}.")] if told else []
