"""Pure: a trace of Chromium -> what the page's scripts cost its main thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

CATEGORIES: Final = ("devtools.timeline", "toplevel", "v8", "v8.execute")
LONG_TASK_MS: Final = 50.0

_SCRIPT: Final = frozenset(
    {
        *("v8.compile", "v8.run", "v8.callFunction", "EvaluateScript", "FunctionCall", "RunMicrotasks"),
        *("TimerFire", "EventDispatch", "FireIdleCallback", "FireAnimationFrame", "XHRReadyStateChange", "XHRLoad"),
    }
)
"""Events of a trace in which the page's scripts are prepared or run. They nest; the outermost one counts."""

Trace = Sequence[Mapping[str, Any]]


class ScriptTime(NamedTuple):
    """Time of a page's main thread spent on scripts, in ms of the (slowed down) processor, not of the clock."""

    load_ms: float
    """In the scripts themselves, and the calls they make as they start."""
    total_ms: float
    """With everything they do later: timers, answers."""
    long_tasks: int
    """Tasks with scripts in them that took longer than LONG_TASK_MS."""


def of(trace: Trace, script: str) -> ScriptTime:
    """What scripts cost the page that loaded `script`, which is the address of one.

    Raises:
        ValueError: the script did not run while the trace was taken.
    """
    thread = _thread(trace, script)
    events = sorted((each for each in trace if _on(each, thread)), key=lambda each: (each["ts"], -each["dur"]))
    outermost, tasks, end = [], [], 0
    for each in events:
        if each["name"] == "ThreadControllerImpl::RunTask":
            tasks.append(each)
        if each["name"] in _SCRIPT and each["ts"] >= end:
            outermost.append(each)
            end = each["ts"] + each["dur"]
    total = sum(map(_ms, outermost))
    load = sum(_ms(each) for each in outermost if each["name"] in ("EvaluateScript", "v8.compile"))
    starts = [each["ts"] for each in outermost]
    long = [each for each in tasks if _ms(each) > LONG_TASK_MS and any(_within(start, each) for start in starts)]
    return ScriptTime(round(load, 2), round(total, 2), len(long))


def _thread(trace: Trace, script: str) -> tuple[int, int]:
    for each in trace:
        if each.get("name") == "EvaluateScript" and each["args"].get("data", {}).get("url") == script:
            return each["pid"], each["tid"]
    raise ValueError(f"{script} did not run.")


def _on(event: Mapping[str, Any], thread: tuple[int, int]) -> bool:
    return event.get("ph") == "X" and (event["pid"], event["tid"]) == thread


def _ms(event: Mapping[str, Any]) -> float:
    return float(event.get("tdur", event["dur"])) / 1000


def _within(moment: int, task: Mapping[str, Any]) -> bool:
    return bool(task["ts"] <= moment < task["ts"] + task["dur"])
