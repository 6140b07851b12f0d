"""Who may send, and what is used while the state database is away."""

from __future__ import annotations

import asyncio
import logging
import os
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from pinstream import metrics
from pinstream.collect import gate as gates
from pinstream.collect.gate import Gate, allows, client_ip, first_snapshot, is_bot, keep_fresh, networks, tell_age
from pinstream.errors import Misconfigured, StateError
from pinstream.state import snapshot as snapshots
from pinstream.state.snapshot import Key, Site, Snapshot

SITE = Site(id=1, tag_id="t-1", origins=("https://a.example",))
ANY = Site(id=2, tag_id="t-2", origins=("*",), allow_null_origin=True, allow_no_origin=False)
KEY = Key(sha256=sha256(b"secret").hexdigest(), prefix="se", site_id=1)
SNAPSHOT = Snapshot(taken_ms=1_000, sites=(SITE,), keys=(KEY,))


@pytest.mark.parametrize(
    ("site", "origin", "allowed"),
    [
        (SITE, "https://a.example", True),
        (SITE, "https://a.example.evil", False),
        (SITE, "https://a.example:444", False),
        (SITE, "http://a.example", False),
        (SITE, "null", False),
        (SITE, "", False),
        (SITE, None, True),
        (ANY, "https://whatever.example", True),
        (ANY, "null", True),
        (ANY, None, False),
    ],
)
def test_origins(site: Site, origin: str | None, allowed: bool) -> None:
    assert allows(site, origin) is allowed


def test_a_star_does_not_mean_null() -> None:
    assert not allows(Site(id=3, tag_id="x", origins=("*",)), "null")


def test_lookups() -> None:
    gate = Gate(SNAPSHOT)
    assert gate.site("t-1") == SITE and gate.site("t-2") is None
    assert gate.knows_origin("https://a.example") and not gate.knows_origin("https://b.example")
    assert not gate.knows_origin("null")
    assert gate.key("secret") == KEY
    for wrong in ("", "Secret", KEY.sha256, "x" * (gates.MAX_KEY_CHARS + 1), "é"):
        assert gate.key(wrong) is None
    gate.use(Snapshot(taken_ms=2, sites=(ANY,)))
    assert gate.site("t-1") is None and gate.site("t-2") == ANY and gate.key("secret") is None
    assert gate.knows_origin("https://b.example") and gate.knows_origin("null")


@pytest.mark.parametrize("agent", ["Googlebot/2.1", "Pinterestbot/1.0", "Pinterest/0.2 (+https://x)", "curl/8.0"])
def test_crawlers(agent: str) -> None:
    assert is_bot(agent)


@pytest.mark.parametrize(
    "agent",
    [
        "",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605.1.15 [Pinterest/iOS]",
        "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 Chrome/140.0.0.0 Mobile Safari/537.36 [Pinterest/Android]",
        "\0\xff",
    ],
)
def test_people(agent: str) -> None:
    assert not is_bot(agent)


def test_the_cache_of_agents_is_bounded() -> None:
    for n in range(gates.BOT_CACHE_AGENTS + 1):
        is_bot(f"Browser {n}")
    assert gates._is_bot.cache_info().currsize == gates.BOT_CACHE_AGENTS
    assert not is_bot("x" * gates.MAX_AGENT_CHARS + "Googlebot/2.1")
    assert is_bot(("x" * gates.MAX_AGENT_CHARS)[: -len("Googlebot/2.1")] + "Googlebot/2.1")


@pytest.mark.parametrize(
    ("peer", "forwarded", "ip"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "1.1.1.1, rubbish", "rubbish"),
        ("2001:db8::1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:203.0.113.9", "198.51.100.1", "::ffff:203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9:5123, 10.0.0.2:80, ::ffff:10.0.0.3", "203.0.113.9"),
        ("10.0.0.1", "[2001:470::1]:44, [2001:db8::1]:44, [2001:db8::2]", "2001:470::1"),
        ("10.0.0.1", "2001:470::1", "2001:470::1"),
    ],
)
def test_only_our_proxies_are_believed(peer: str, forwarded: str, ip: str) -> None:
    assert client_ip(peer, forwarded, networks(["10.0.0.0/8", "2001:db8::/32"])) == ip


def test_without_proxies_nobody_is_believed() -> None:
    assert client_ip("10.0.0.1", "198.51.100.1", ()) == "10.0.0.1"


def test_hops_are_bounded() -> None:
    many = ", ".join(["198.51.100.1"] + ["10.0.0.2"] * gates.MAX_FORWARDED)
    assert client_ip("10.0.0.1", many, networks(["10.0.0.0/8"])) == "10.0.0.2"
    many = ", ".join(["198.51.100.1"] + ["10.0.0.2"] * (gates.MAX_FORWARDED - 1))
    assert client_ip("10.0.0.1", many, networks(["10.0.0.0/8"])) == "198.51.100.1"


def test_a_proxy_that_is_no_network_names_the_setting() -> None:
    with pytest.raises(Misconfigured, match=r"collect\.trusted_proxies"):
        networks(["proxy.example"])


# --- freshness ---------------------------------------------------------------------------------------


def away() -> Snapshot:
    raise StateError("No answer.")


async def test_the_first_snapshot_is_the_databases_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.json"
    assert await first_snapshot(lambda: SNAPSHOT, path) == SNAPSHOT
    assert snapshots.load(path) == SNAPSHOT
    assert await first_snapshot(away, path) == SNAPSHOT


async def test_without_database_and_snapshot_there_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no earlier snapshot"):
        await first_snapshot(away, tmp_path / "snapshot.json")


async def test_a_snapshot_that_cannot_be_kept_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert await first_snapshot(lambda: SNAPSHOT, tmp_path / "file" / "snapshot.json") == SNAPSHOT
    assert "Cannot keep the snapshot" in caplog.text


async def test_the_last_good_snapshot_stays_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    newer = msgspec.structs.replace(SNAPSHOT, taken_ms=2_000, sites=(ANY,))
    reads = 0

    def read() -> Snapshot:
        nonlocal reads
        reads += 1
        return away() if reads <= 3 else newer

    gate = Gate(SNAPSHOT)
    task = asyncio.create_task(keep_fresh(gate, read, tmp_path / "snapshot.json", 0.01))
    while reads < 3:
        assert gate.site("t-1") == SITE
        await asyncio.sleep(0.005)
    while gate.site("t-2") is None:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.03)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [record.message for record in caplog.records].count(
        "State database is away, going on with the sites known so far: No answer."
    ) == 1


async def test_no_fault_ends_the_refreshing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    newer = msgspec.structs.replace(SNAPSHOT, taken_ms=2_000, sites=(ANY,))
    reads = 0

    def read() -> Snapshot:
        nonlocal reads
        reads += 1
        if reads <= 3:
            raise OSError("disk I/O error")
        return newer

    gate = Gate(SNAPSHOT)
    (tmp_path / f"snapshot.json.{os.getpid()}").mkdir()  # nor does a snapshot that cannot be kept
    task = asyncio.create_task(keep_fresh(gate, read, tmp_path / "snapshot.json", 0.01))
    while gate.site("t-2") is None:
        await asyncio.sleep(0.005)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [record.exc_info is not None for record in caplog.records].count(True) == 1


async def test_the_age_is_exported_also_while_nothing_can_be_read() -> None:
    def age() -> float | None:
        return metrics.REGISTRY.get_sample_value("pinstream_snapshot_age_seconds")

    now_ms = SNAPSHOT.taken_ms + 59_000
    task = asyncio.create_task(tell_age(Gate(SNAPSHOT), lambda: now_ms))
    try:
        while age() != 59:
            await asyncio.sleep(0.01)
        now_ms += 1_000
        while age() != 60:
            await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_kept_snapshot_that_is_unreadable_is_none_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert snapshots.load(tmp_path / "missing") is None and not caplog.records
    (tmp_path / "file").write_bytes(b"{")
    for path in (tmp_path, tmp_path / "file" / "snapshot.json", tmp_path / "file"):
        caplog.clear()
        assert snapshots.load(path) is None
        assert "is unreadable" in caplog.text
