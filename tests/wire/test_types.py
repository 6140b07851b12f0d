"""The tag's types are those of the event model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "wiretypes"


def test_the_committed_types_are_what_the_event_model_says() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_types_that_differ_are_told(tmp_path: Path) -> None:
    copy = tmp_path / "scripts" / "wiretypes"
    types = tmp_path / "js" / "src" / "wire.gen.ts"
    for path in (copy, types):
        path.parent.mkdir(parents=True)
    copy.write_text(SCRIPT.read_text())
    types.write_text("export interface LineItem {}\n")
    check = subprocess.run([sys.executable, copy, "--check"], capture_output=True, text=True)
    assert check.returncode == 1
    assert "run scripts/wiretypes" in check.stderr
    assert subprocess.run([sys.executable, copy]).returncode == 0
    assert types.read_text() == (ROOT / "js" / "src" / "wire.gen.ts").read_text()


def test_every_key_of_a_golden_event_is_known_or_free() -> None:
    """What the tag sends beside `props` has a name in the types, apart from what pages may say freely."""
    types = (ROOT / "js" / "src" / "wire.gen.ts").read_text() + (ROOT / "js" / "src" / "types.ts").read_text()
    free = {"event", "time", "url", "referrer", "friends", "nested"}
    for path in sorted((ROOT / "tests" / "wire").glob("tag_*.json")):
        keys = {key for event in json.loads(path.read_bytes())["events"] for key in event}
        assert [key for key in keys - free if f"  {key}?:" not in types] == [], path.name
