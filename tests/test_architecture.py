"""Imports go one way, and each foreign library has one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "pinstream"

RANKS = (
    ("clock", "errors"),
    ("event", "settings", "metrics"),
    ("serving", "supervisor"),
    ("ops",),
    ("eventlog", "warehouse", "pinterest", "state"),
    ("audiences", "privacy"),
    ("collect", "load", "push", "forward"),
    ("history",),
    ("console",),
    ("roles",),
    ("demo", "doctor"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""From the bottom to the top: a room may import itself and what stands lower, never its neighbours."""

DOORS = {
    "aiokafka": ("eventlog/kafka.py",),
    "alembic": ("state/",),
    "chdb": ("warehouse/embedded.py",),
    "clickhouse_connect": ("warehouse/client.py",),
    "crawleruseragents": ("collect/gate.py",),
    "httpx": ("pinterest/client.py", "demo/", "cli.py"),
    "jinja2": ("demo/shop/",),
    "openapi_core": ("pinterest/fake.py",),
    "phonenumbers": ("collect/identity.py",),
    "prometheus_client": ("metrics.py",),
    "pydantic": ("settings.py",),
    "pydantic_settings": ("settings.py",),
    "re2": ("collect/gate.py",),
    "rich": ("cli.py", "commands/", "demo/"),
    "sqlalchemy": ("state/",),
    "sqlite3": ("eventlog/", "pinterest/fakeworld.py", "state/"),
    "stamina": ("pinterest/client.py",),
    "structlog": ("commands/",),
    "typer": ("cli.py", "commands/"),
    "yaml": ("pinterest/fake.py",),
}
"""Foreign library -> the files or folders that may import it."""

FILES = sorted(SRC.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in FILES}
"""Parsed when this module is imported: CPython 3.11 may fail to, once a deep recursion was caught in the process."""


def rank_of(room: str) -> int:
    return next(index for index, rooms in enumerate(RANKS) if room in rooms)


def room_of(path: Path) -> str:
    parts = path.relative_to(SRC).parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "pinstream" else (module,)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        if room == "__init__" or not name.startswith("pinstream."):
            continue
        other = name.split(".")[1]
        if other != room and other != "__version__":
            assert rank_of(other) < rank_of(room), f"{room} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_each_foreign_library_has_one_door(path: Path) -> None:
    where = path.relative_to(SRC).as_posix()
    for name in imports(path):
        doors = DOORS.get(name.split(".")[0])
        assert doors is None or any(where == door or (door.endswith("/") and where.startswith(door)) for door in doors)


def test_every_room_is_on_the_map() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms == {room for rank in RANKS for room in rank}


def test_the_map_in_the_package_docstring_names_every_room() -> None:
    docstring = ast.get_docstring(TREES[SRC / "__init__.py"]) or ""
    for rank in RANKS:
        for room in rank:
            assert room in docstring, room
