from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("script", ["check", "test", "venv", "lock"])
def test_help_is_a_usage_line_and_starts_nothing(script: str) -> None:
    done = subprocess.run([ROOT / "scripts" / script, "--help"], capture_output=True, text=True, timeout=10)
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: scripts/{script} ")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_a_missing_uv_is_named(tmp_path: Path) -> None:
    for name in ("bash", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    done = subprocess.run([ROOT / "scripts" / "lock"], capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (1, "uv is missing: pip install uv\n")


def test_no_lock_file_holds_an_address() -> None:
    locks = [*ROOT.glob("requirements-*.txt"), ROOT / "js" / "package-lock.json"]
    assert len(locks) == 3
    for lock in locks:
        assert "://" not in lock.read_text(), lock
