"""The pure parts of scripts/bench, and its generators against a real socket."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from loadtests.bench import __main__ as program
from loadtests.bench import load, openloop, overload, parts, profile, report, traffic, wrk
from loadtests.bench.parts import Fault
from loadtests.bench.report import Sample

from pinstream import metrics
from pinstream.collect import wire
from tests.kafka_broker import need_kafka

ROOT = Path(__file__).parents[2]
NOW_MS = 1_795_291_391_000

RUN = Sample(seconds=5, answered=100_000, in_kafka=100_200, p50_ms=6, p99_ms=20, cpu_s=2, rss_bytes=60_000_000)


# --- traffic ---------------------------------------------------------------------------------------


def parsed(request: bytes) -> wire.Wire:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    if lines[0].startswith("GET"):
        return wire.parse_query(lines[0].split(" ")[1].partition("?")[2].encode())
    assert int(fields["Content-Length"]) == len(body)
    return wire.parse(fields["Content-Type"], body)


def test_every_request_is_another_visitor_and_event_of_the_tags_form() -> None:
    made = traffic.singles(1, NOW_MS)
    assert len(set(made)) == traffic.REQUESTS
    bodies = [each.partition(b"\r\n\r\n")[2] for each in made]
    assert 400 <= sum(map(len, bodies)) / len(bodies) <= 500
    events = [json.loads(body) for body in bodies]
    assert len({each["visitor_id"] for each in events}) == traffic.REQUESTS
    assert len({each["events"][0]["event_id"] for each in events}) == traffic.REQUESTS


@pytest.mark.parametrize(("make", "events"), [(traffic.singles, 1), (traffic.batches, 50), (traffic.pixels, 1)])
def test_our_parser_takes_every_event(make, events) -> None:  # type: ignore[no-untyped-def]
    read = parsed(make(1, NOW_MS)[0])
    assert len(read.event_ids) == events
    assert read.envelope.site == traffic.SITE


def test_requests_survive_their_file(tmp_path: Path) -> None:
    made = [b"GET / HTTP/1.1\r\n\r\n", b"", b"\x00" * 70_000]
    traffic.write(tmp_path / "requests", made)
    assert traffic.read(tmp_path / "requests") == made


# --- wrk -------------------------------------------------------------------------------------------

PRINTED = (
    "Running 5s test\n  1234 requests in 5.10s\n"
    '{"requests": 1234, "duration_us": 5100000, "status": 34, "connect": 1, "read": 2, "write": 3, "timeout": 4, '
    '"p50_us": 6500, "p99_us": 21000, "max_us": 30000}\n'
)


def test_only_good_answers_of_wrk_count() -> None:
    found = wrk.parse(PRINTED)
    assert found == wrk.Loaded(seconds=5.1, answered=1200, errors=40, timeouts=4, p50_ms=6.5, p99_ms=21.0)
    assert found.rps == pytest.approx(1200 / 5.1)


def test_wrk_without_a_result_is_a_fault() -> None:
    with pytest.raises(Fault, match="unable to connect"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


# --- the report ------------------------------------------------------------------------------------


def rounds(*rps: float, cpu_s: float = 2, in_kafka: bool = True) -> list[Sample]:
    counts = [round(each * 5) for each in rps]
    return [replace(RUN, answered=n, in_kafka=n + 7 if in_kafka else None, cpu_s=cpu_s) for n in counts]


def all_cases() -> dict[str, Sequence[Sample]]:
    batch = replace(RUN, answered=600_000, in_kafka=600_000, cpu_s=5, events_per_request=50)
    return {
        "nginx_204": rounds(50_000, 52_000, 20_000, in_kafka=False),
        "ours": rounds(20_000, 30_000, 10_000, cpu_s=1.5),
        "nginx_lua": rounds(25_000, 25_000, 10_000),
        "naive": rounds(4_000, 5_000, 1_000),
        "floor": rounds(40_000, 30_000, 20_000, in_kafka=False),
        "batch50": [batch],
        "pixel": rounds(9_000, 8_000, 7_000),
    }


def test_the_json_has_the_promised_shape() -> None:
    found = report.summary(all_cases())
    server = {"rps", "p50_ms", "p99_ms", "cpu_us_per_event", "rss_mb", "answered", "in_kafka"}
    assert {case: set(figures) for case, figures in found.items()} == {
        "ours": server,
        "nginx_204": server,
        "nginx_lua": server,
        "naive": server,
        "floor": server,
        "batch50": {"events_per_s_per_core"},
        "pixel": {"rps"},
        "ratios": {"rps_vs_naive", "rps_vs_nginx_lua", "cpu_vs_nginx_204", "cpu_vs_floor"},
    }
    assert found["ours"]["rps"] == 20_000
    assert (found["ours"]["answered"], found["ours"]["in_kafka"]) == (100_000, 100_007)
    assert found["ours"]["cpu_us_per_event"] == 15.0
    assert found["nginx_204"]["in_kafka"] is None
    assert found["batch50"]["events_per_s_per_core"] == 120_000
    assert found["pixel"]["rps"] == 8_000


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    ratios = report.summary(all_cases())["ratios"]
    assert ratios["rps_vs_nginx_lua"] == 1.0  # 0.8, 1.2, 1.0
    assert ratios["rps_vs_naive"] == 6.0  # 5, 6, 10


def test_cases_that_did_not_run_are_in_neither_json_nor_table() -> None:
    only = {"ours": rounds(20_000)}
    assert set(report.summary(only)) == {"ours", "ratios"}
    assert report.summary(only)["ratios"] == {}
    assert "nginx" not in report.table(only)


@pytest.mark.parametrize(
    ("ratio", "word"), [(1.2, "met"), (1.21, "stop line held"), (2.0, "stop line held"), (2.01, "missed")]
)
def test_cpu_has_a_goal_and_a_stop_line(ratio: float, word: str) -> None:
    (verdict,) = report.verdicts({"ratios": {"cpu_vs_nginx_204": ratio}})
    assert verdict.word == word


@pytest.mark.parametrize(
    ("ratio", "word"), [(1.0, "met"), (0.99, "stop line held"), (0.8, "stop line held"), (0.79, "missed")]
)
def test_speed_has_a_goal_and_a_stop_line(ratio: float, word: str) -> None:
    (verdict,) = report.verdicts({"ratios": {"rps_vs_nginx_lua": ratio}})
    assert verdict.word == word


def test_without_a_stop_line_a_goal_is_met_or_missed() -> None:
    words = [each.word for each in report.verdicts({"ratios": {"rps_vs_naive": 3.99}, "ours": {"p99_ms": 50.0}})]
    assert words == ["missed", "met"]


@pytest.mark.parametrize(
    ("surplus", "events", "fault"),
    [(0, 1, ""), (256, 1, ""), (257, 1, "257 events more"), (-1, 1, "1 events were answered"), (12_800, 50, "")],
)
def test_answers_and_kafka_must_agree(surplus: int, events: int, fault: str) -> None:
    run = replace(RUN, in_kafka=RUN.answered + surplus, events_per_request=events)
    found = report.count_faults("ours", [RUN, run], 256)
    assert [fault in each for each in found] == ([True] if fault else [])


def test_what_keeps_nothing_has_no_count() -> None:
    assert report.count_faults("nginx_204", rounds(1000, in_kafka=False), 256) == []


def test_a_part_of_the_document_is_replaced_and_nothing_else() -> None:
    document = "before\n<!-- x: written by scripts/bench -->\nold\n<!-- x: end -->\nafter\n"
    once = report.written(document, "x", "new\n")
    assert once == "before\n<!-- x: written by scripts/bench -->\n\nnew\n\n<!-- x: end -->\nafter\n"
    assert report.written(once, "x", "new") == once
    with pytest.raises(ValueError, match="y: end"):
        report.written(document, "y", "new")


def test_the_document_has_a_place_for_every_table() -> None:
    document = (ROOT / "docs" / "benchmarks.md").read_text()
    for name in ("collect", "overload", "profile"):
        assert report.written(document, name, "a table") != document


# --- overload and the open loop --------------------------------------------------------------------


def seen(**changes: object) -> dict[str, object]:
    return {
        "seconds": 60.0,
        "offered": 1_800_000,
        "good_in_time": 570_000,
        "retry_after": 1_230_000,
        "p99_ms": 30.5,
        "unsent": 0,
        "unanswered": 0,
        "answers": {"204": 570_000, "429": 30_000, "503": 1_200_000},
        **changes,
    }


def test_goodput_is_measured_against_the_knee() -> None:
    found = overload.judge(10_000, seen(), 570_100, 60_000_000, 75_000_000)
    assert found.faults == []
    assert found.result == {
        "knee_rps": 10_000,
        "offered_rps": 30_000,
        "goodput_rps": 9_500,
        "goodput_ratio": 0.95,
        "refused": {"429": 30_000, "503": 1_200_000},
        "retry_after": True,
        "rss_mb_start": 60.0,
        "rss_mb_peak": 75.0,
        "p99_ms": 30.5,
        "unsent": 0,
        "unanswered": 0,
        "answered": 570_000,
        "in_kafka": 570_100,
    }


def test_a_refusal_without_retry_after_is_seen() -> None:
    assert not overload.judge(10_000, seen(retry_after=1_229_999), 570_000, 1, 1).result["retry_after"]


def test_an_answer_that_is_not_in_kafka_is_a_fault() -> None:
    (fault,) = overload.judge(10_000, seen(), 569_999, 1, 1).faults
    assert fault.startswith("1 events")


def test_an_answer_that_is_neither_taken_nor_refused_is_a_fault() -> None:
    (fault,) = overload.judge(10_000, seen(answers={"204": 1, "500": 3}), 1, 1, 1).faults
    assert "{'500': 3}" in fault


NO_CONTENT = b"HTTP/1.1 204 No Content\r\nvary: Origin\r\n\r\n"
ANSWERS = (
    NO_CONTENT + b'HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 17\r\n\r\n{"reason":"busy"}'
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\ncontent-length: 0\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 13, 14, 15, 64, 1000])
def test_answers_are_found_wherever_they_are_cut(size: int) -> None:
    reader = openloop.Answers()
    statuses: list[int] = []
    again = 0
    for at in range(0, len(ANSWERS), size):
        found, more = reader.feed(ANSWERS[at : at + size])
        statuses += found
        again += more
    assert (statuses, again) == ([204, 503, 429], 2)


class Rude(asyncio.Protocol):
    """Answers every third request, hangs up at every hundredth, and swallows the others."""

    taken = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            Rude.taken += 1
            if Rude.taken % 3 == 0:
                self.transport.write(NO_CONTENT)
            if Rude.taken % 100 == 0:
                self.transport.close()


async def test_the_open_loop_offers_its_rate_whatever_the_server_does() -> None:
    async with await asyncio.get_running_loop().create_server(Rude, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        load = openloop.Load(port, [b"GET / HTTP/1.1\r\n\r\n"] * 10, rate=1000, seconds=1, drain_s=0.2)
        found = await load.run()
    assert 970 <= found["offered"] <= 1000
    assert set(found["answers"]) == {"204"}
    assert found["unanswered"] > 400
    assert found["offered"] == found["unsent"] + found["unanswered"] + found["answers"]["204"]


def test_the_99th_percentile_is_one_of_the_values() -> None:
    assert openloop.percentile(array("d", range(1, 101)), 99) == 100
    assert openloop.percentile(array("d", range(1, 101)), 50) == 51
    assert openloop.percentile(array("d"), 99) == 0


# --- the profile -----------------------------------------------------------------------------------


def test_a_functions_share_counts_each_sample_once() -> None:
    frames = [
        {"name": "run", "file": "/x/src/pinstream/cli.py"},
        {"name": "take", "file": "/x/lib/site-packages/starlette/routing.py"},
        {"name": "write", "file": "/usr/lib/libc.so.6"},
    ]
    recorded = {
        "shared": {"frames": frames},
        "profiles": [
            {"name": 'Thread 1 "MainThread"', "samples": [[0, 1, 1], [0, 1, 2], [0]], "weights": [1, 2, 1]},
            {"name": 'Thread 2 "uvloop_0"', "samples": [[2]], "weights": [100]},
        ],
    }
    assert profile.shares(recorded) == [
        profile.Share("write (libc.so.6)", 50, 50),
        profile.Share("run (pinstream/cli.py)", 25, 100),
        profile.Share("take (starlette/routing.py)", 25, 75),
    ]


# --- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    ["collect --only apache", "collect --rounds 0", "overload --seconds 0", "collect --set keyless", "fly", ""],
)
def test_a_wrong_command_is_refused_before_anything_starts(wrong: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        program.main(wrong.split())
    assert stopped.value.code == 2


def test_settings_and_cases_are_read() -> None:
    options = program.parser().parse_args(
        ["collect", "--only", "ours,pixel", "--set", "collect.port=1", "--set", "a.b=x=y"]
    )
    assert options.only == ("ours", "pixel")
    assert dict(options.settings) == {"collect.port": "1", "a.b": "x=y"}


def test_a_missing_part_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Fault, match="sudo apt-get install wrk openjdk-17-jre-headless"):
        parts.need("wrk", "java")


def test_help_needs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.bench", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(command in done.stdout for command in ("collect", "overload", "profile"))


@pytest.mark.kafka
@pytest.mark.slow
def test_a_short_run_counts_in_kafka_what_was_answered() -> None:
    need_kafka()
    if not shutil.which("wrk") and os.geteuid():
        pytest.skip("wrk is missing (apt-get install wrk).")
    command = [sys.executable, "-m", "loadtests.bench", "collect", "--json", "--only", "ours", "--rounds", "1"]
    done = subprocess.run([*command, "--seconds", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = json.loads(done.stdout.splitlines()[-1])["ours"]
    assert 0 < ours["answered"] <= ours["in_kafka"] <= ours["answered"] + wrk.CONNECTIONS
    assert ours["cpu_us_per_event"] > 0


# --- load ------------------------------------------------------------------------------------------


def test_what_a_loader_says_it_has_inserted() -> None:
    metrics.LOADED.labels("pinstream.engagements").inc(7)
    before = load.loaded(metrics.exposition().decode())
    metrics.LOADED.labels("pinstream.events").inc(12_000)
    assert load.loaded(metrics.exposition().decode()) == before + 12_000
    assert load.loaded("") == 0
