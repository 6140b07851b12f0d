from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_missing_java_is_named_with_its_package(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "kafka"), "start", "--dir", str(tmp_path / "kafka")],
        capture_output=True,
        text=True,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "openjdk-17-jre-headless" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_lock_file_holds_an_address() -> None:
    locks = [*ROOT.glob("requirements-*.txt"), ROOT / "js" / "package-lock.json"]
    assert len(locks) == 3
    for lock in locks:
        assert "://" not in lock.read_text(), lock
