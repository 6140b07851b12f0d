from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from pinstream import serving
from pinstream import supervisor as supervisor_module
from pinstream.errors import SetupFault
from pinstream.serving import bind
from pinstream.supervisor import MAX_LINE_BYTES, Program, Supervisor, answers_ok, supervised


class Lines:
    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.all.append((name, line))

    async def wait_for(self, text: str, timeout_s: float = 10) -> str:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for name, line in self.all:
                if text in line:
                    return name
            await asyncio.sleep(0.02)
        raise AssertionError(f"{text!r} not in {self.all}")


def python(name: str, code: str, **options: str) -> Program:
    return Program(name, (sys.executable, "-u", "-c", code), **options)  # type: ignore[arg-type]


SLEEPER = "import os,time; print('up', os.getpid()); time.sleep(60)"


async def test_lines_are_relayed_under_the_programs_name() -> None:
    lines = Lines()
    async with supervised([python("a", SLEEPER), python("b", "print('hello'); import time; time.sleep(60)")], lines):
        assert await lines.wait_for("hello") == "b"
        assert await lines.wait_for("up") == "a"


async def test_a_line_without_end_does_not_stop_the_others() -> None:
    lines = Lines()
    long = "import sys, time; sys.stdout.write('x' * 300_000); print(); print('still here'); time.sleep(60)"
    async with supervised([python("a", long)], lines):
        await lines.wait_for("still here")
    assert sum(len(line) for _, line in lines.all) >= 300_000
    assert max(len(line) for _, line in lines.all) <= MAX_LINE_BYTES


async def test_a_program_that_is_not_ready_in_time_is_named_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor_module, "READY_S", 0.3)
    lines = Lines()
    async with supervised(
        [python("slow", SLEEPER, ready_url="http://127.0.0.1:1/"), python("b", SLEEPER)], lines
    ) as all_:
        assert set(all_.pids) == {"slow", "b"}
    assert any("is not ready" in line for _, line in lines.all)


async def test_what_dies_is_started_again() -> None:
    lines = Lines()
    async with supervised([python("a", SLEEPER)], lines) as supervisor:
        await lines.wait_for("up")
        first = supervisor.pids["a"]
        os.kill(first, signal.SIGKILL)
        await lines.wait_for("ended (signal SIGKILL)")
        for _ in range(200):
            if supervisor.pids.get("a", first) != first:
                break
            await asyncio.sleep(0.02)
        assert supervisor.pids["a"] != first
        assert supervisor.restarts == {"a": 1}


async def test_stopping_goes_in_reverse_order_and_leaves_nothing_behind() -> None:
    lines = Lines()
    stopper = (
        "import signal, sys, time; signal.signal(15, lambda *_: (print('bye'), sys.exit(0))); print('up')\n"
        "while 1: time.sleep(1)"
    )
    async with supervised([python("first", stopper), python("second", stopper)], lines) as supervisor:
        await lines.wait_for("up")
        while len([line for line in lines.all if line[1] == "up"]) < 2:
            await asyncio.sleep(0.02)
        pids = list(supervisor.pids.values())
    await asyncio.sleep(0.1)
    assert [name for name, line in lines.all if line == "bye"] == ["second", "first"]
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_program_that_ends_at_start_is_a_setup_fault() -> None:
    lines = Lines()
    with pytest.raises(SetupFault, match="bad ended at start"):
        async with supervised(
            [
                python("good", SLEEPER),
                python("bad", "print('no java'); raise SystemExit(3)", ready_url="http://127.0.0.1:1/"),
            ],
            lines,
        ):
            raise AssertionError("not reached")
    assert ("bad", "no java") in lines.all


async def test_the_block_runs_once_every_program_is_ready() -> None:
    port = serving.bind("127.0.0.1", 0)
    number = port.getsockname()[1]
    port.close()
    server = (
        "import time; time.sleep(0.5); from http.server import *\n"
        f"HTTPServer(('127.0.0.1', {number}), SimpleHTTPRequestHandler).serve_forever()"
    )
    lines = Lines()
    programs = [python("server", server, ready_url=f"http://127.0.0.1:{number}/"), python("client", SLEEPER)]
    async with supervised(programs, lines):
        assert await answers_ok(f"http://127.0.0.1:{number}/")
        await lines.wait_for("up")


async def test_told_to_stop_it_waits_no_longer_for_programs_to_be_ready() -> None:
    lines, stop = Lines(), asyncio.Event()
    stop.set()
    async with supervised([python("slow", SLEEPER, ready_url="http://127.0.0.1:1/")], lines, stop) as supervisor:
        assert set(supervisor.pids) == {"slow"}
    assert not any("is not ready" in line for _, line in lines.all)


async def test_one_program_takes_the_place_of_another() -> None:
    lines = Lines()
    async with supervised([python("a", SLEEPER), python("b", SLEEPER)], lines) as supervisor:
        old = supervisor.pids["a"]
        await supervisor.replace("a", python("c", SLEEPER))
        assert set(supervisor.pids) == {"b", "c"}
        assert not psutil.pid_exists(old)
        os.kill(supervisor.pids["c"], signal.SIGKILL)  # the successor is kept alive as its predecessor was
        await lines.wait_for("ended (signal SIGKILL)")
        while "c" not in supervisor.pids:
            await asyncio.sleep(0.02)
        assert supervisor.restarts == {"b": 0, "c": 1}


@pytest.mark.parametrize(
    ("code", "sentence"),
    [("raise SystemExit(3)", "c ended at start"), (SLEEPER, "c was not ready after 0 s: a goes on in its place")],
)
async def test_a_successor_that_does_not_get_ready_leaves_everything_as_it_was(
    code: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with supervised([python("a", SLEEPER)], Lines()) as supervisor:
        before = supervisor.pids
        monkeypatch.setattr(supervisor_module, "READY_S", 0.3)
        with pytest.raises(SetupFault, match=sentence):
            await supervisor.replace("a", python("c", code, ready_url="http://127.0.0.1:1/"))
        assert supervisor.pids == before


async def test_stopping_in_the_midst_of_a_replacement_stops_both_once() -> None:
    lines = Lines()
    counts = (
        "import signal, time; told = []; signal.signal(15, lambda *_: (told.append(1), print('told', len(told))))\n"
        "print('up')\nwhile not told: time.sleep(0.01)\ntime.sleep(0.5)"
    )
    supervisor = Supervisor([python("a", counts)], lines)
    await supervisor.start()
    await lines.wait_for("up")
    replacing = asyncio.create_task(supervisor.replace("a", python("c", SLEEPER)))
    await lines.wait_for("told 1")
    replacing.cancel()
    await supervisor.stop(at_once=True)
    assert supervisor.pids == {}
    assert not any("told 2" in line for _, line in lines.all)


async def test_a_program_inherits_files_and_may_write_where_its_supervisor_does(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with bind("127.0.0.1", 0) as listener:
        code = f"import socket, time; print(socket.socket(fileno={listener.fileno()}).getsockname()); time.sleep(60)"
        program = Program("a", (sys.executable, "-u", "-c", code), fds=(listener.fileno(),), relayed=False)
        lines = Lines()
        async with supervised([program], lines):
            said = ""
            while "\n" not in said:
                said += capfd.readouterr().out
                await asyncio.sleep(0.02)
        assert said.strip() == str(listener.getsockname())
        assert lines.all == []


async def test_programs_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
from pinstream.supervisor import Program, supervised
async def main():
    async with supervised([Program("a", (sys.executable, "-u", "-c", {SLEEPER!r}))], lambda n, l: print(l, flush=True)):
        await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout
    child = int((await parent.stdout.readline()).split()[1])
    parent.kill()
    await parent.wait()
    for _ in range(200):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the child outlived its supervisor")


def test_a_taken_port_says_what_to_do() -> None:
    listener = serving.bind("127.0.0.1", 0)
    with pytest.raises(SetupFault, match="is taken"):
        serving.bind("127.0.0.1", listener.getsockname()[1])
    listener.close()


async def test_the_death_of_a_parent_with_several_threads_is_one_order_to_end(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        """
import asyncio, pathlib, sys
from pinstream.supervisor import until_signalled

async def serve(stop):
    pathlib.Path(sys.argv[1] + ".up").touch()
    await stop.wait()
    await asyncio.sleep(0.5)
    pathlib.Path(sys.argv[1]).write_text("orderly")

asyncio.run(until_signalled(serve))
"""
    )
    ends = [tmp_path / f"end{number}" for number in range(4)]
    parent = f"""
import asyncio, sys, threading, time
from pinstream.supervisor import Program, supervised

async def main():
    for _ in range(30):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    programs = [Program(end, (sys.executable, {str(child)!r}, end)) for end in sys.argv[1:]]
    async with supervised(programs, print):
        await asyncio.sleep(60)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", parent, *map(str, ends))
    async with asyncio.timeout(30):
        while not all(Path(f"{end}.up").exists() for end in ends):
            await asyncio.sleep(0.05)
        process.kill()
        await process.wait()
        while not all(end.exists() for end in ends):
            await asyncio.sleep(0.05)
    assert [end.read_text() for end in ends] == ["orderly"] * 4
