"""docs/tag.md says what there is: sizes, platforms, adapters, settings."""

from __future__ import annotations

import gzip
import re
from importlib import resources
from pathlib import Path

import pytest

from pinstream.collect.snippet import PLATFORMS
from pinstream.settings import Collect

STATIC = Path(str(resources.files("pinstream.collect") / "static"))
DOC = (Path(__file__).parents[1] / "docs" / "tag.md").read_text()
TABLE = dict(re.findall(r"^\| (.+?) \| ([\d.-]+) \|", DOC.partition("## Sizes")[2], re.MULTILINE))


def kilobytes(path: Path) -> float:
    return len(gzip.compress(path.read_bytes(), 9)) / 1000


@pytest.mark.parametrize(
    ("row", "files"),
    {
        "**pinstream** `tag.js`": "tag.js",
        "the inline stub": "stub.js",
        "an adapter": "adapters/*.js",
        "React or Vue helper": "frameworks/*.js",
        "`mirror.js`": "mirror.js",
        "`sandbox.js`": "sandbox.js",
        "`debug.js`": "debug.js",
        "`badge.js`": "badge.js",
    }.items(),
)
def test_a_documented_size_is_not_flattering_and_not_stale(row: str, files: str) -> None:
    measured = [kilobytes(path) for path in STATIC.glob(files)]
    documented = float(TABLE[row].rpartition("-")[2])
    assert documented - 0.15 < max(measured) <= documented


def test_every_platform_adapter_and_path_is_documented() -> None:
    for platform in PLATFORMS:
        assert f"`{platform}`" in DOC
    for adapter in (STATIC / "adapters").iterdir():
        assert f"`{adapter.stem}`" in DOC
    for setting in ("script_path", "endpoint_path"):
        assert setting in Collect.model_fields
        assert f"`collect.{setting}`" in DOC
