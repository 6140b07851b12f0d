"""The pure parts of `scripts/bench tag`. That it runs is shown by running it: it needs Chromium and npm."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest
from loadtests.bench import scripttime
from loadtests.bench.scripttime import ScriptTime
from loadtests.bench.sink import ids
from loadtests.bench.tag import Figures, result, shown

SENT = json.dumps([{"event": "add to cart", "properties": {"id": "bench-leave-7", "what": "ü" * 40}}]).encode()


@pytest.mark.parametrize(
    "body",
    [
        SENT,
        gzip.compress(SENT),
        b"data=" + base64.b64encode(SENT),
        b"data=" + quote(base64.b64encode(SENT).decode(), safe="").encode() + b"&v=1",
        quote(SENT.decode()).encode(),
        json.dumps({"data": [{"ue_px": base64.urlsafe_b64encode(SENT).decode().rstrip("=")}]}).encode(),
        gzip.compress(b"data=" + base64.b64encode(SENT)),
    ],
)
def test_an_id_is_found_however_a_tag_packs_it(body: bytes) -> None:
    assert ids(body) == {7}


def test_what_holds_no_id_has_none() -> None:
    assert ids(b"") == ids(b"bench-leave-x") == ids(b"A" * 4000) == ids(bytes(range(256))) == set()


def event(name: str, at: int, took: int, cpu: int | None = None, *, thread: int = 1, **data: Any) -> dict[str, Any]:
    made = {"ph": "X", "pid": 1, "tid": thread, "name": name, "ts": at, "dur": took, "args": {"data": data}}
    return made | ({} if cpu is None else {"tdur": cpu})


TAG = "http://t.shop.localhost:1/tag.js"


def test_scripts_time_is_that_of_the_outermost_events_of_the_pages_thread() -> None:
    trace = [
        event("ThreadControllerImpl::RunTask", 0, 90_000, 60_000),
        event("EvaluateScript", 1_000, 80_000, 50_000, url=TAG),
        event("v8.run", 2_000, 70_000, 45_000),
        event("RunMicrotasks", 82_000, 3_000, 2_000),
        event("ThreadControllerImpl::RunTask", 200_000, 60_000, 9_000),
        event("TimerFire", 201_000, 50_000, 8_000),
        event("FunctionCall", 202_000, 40_000, 7_000),
        event("EvaluateScript", 0, 900_000, 900_000, thread=2, url="http://elsewhere/"),
        {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": "CrRendererMain"}},
    ]
    assert scripttime.of(trace, TAG) == ScriptTime(load_ms=50, total_ms=60, long_tasks=1)


def test_a_trace_without_the_script_has_no_figure() -> None:
    with pytest.raises(ValueError, match="did not run"):
        scripttime.of([event("EvaluateScript", 0, 10, url="http://other/")], TAG)


def figures(lost: int, *load_ms: float) -> Figures:
    return Figures(2000, 1000, lost, 3, [ScriptTime(each, each + 4, 0) for each in load_ms])


def test_the_result_is_ours_with_the_peers_beside_it() -> None:
    found = {"ours": figures(2, 9, 7, 8), "posthog": figures(900, 100)}
    told = result(found)
    assert (told["page_leaves"], told["lost"], told["main_thread_ms_4x"]) == (1000, 2, 8)
    assert told["peers"]["posthog"]["lost"] == 900
    assert "| lost, %         | <= 0.5 |     0.20 | met     |" in shown(found)
    assert "| main thread, ms | <= 10  |     10.1 | missed  |" in shown({"ours": figures(0, 10.1)})
