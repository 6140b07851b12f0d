from __future__ import annotations

from pathlib import Path

from pinstream.warehouse import dictionary
from pinstream.warehouse.client import Warehouse

DOC = Path(__file__).parents[2] / "docs" / "data-dictionary.md"


async def test_everything_is_explained_in_both_languages_and_the_document_is_fresh(warehouse: Warehouse) -> None:
    """# `pinstream warehouse dictionary > docs/data-dictionary.md`, on a migrated warehouse, makes it anew."""
    found = await dictionary.entries(warehouse)
    assert len({entry.table for entry in found if entry.database == "analytics"}) == 13
    assert [entry for entry in found if not entry.english or not entry.french] == []
    assert DOC.read_text(encoding="utf-8") == dictionary.markdown(found)
    assert dictionary.french().keys() - {entry.english for entry in found} == set()


async def test_a_gap_is_seen(warehouse: Warehouse) -> None:
    await warehouse.command("CREATE TABLE new (a UInt8 COMMENT 'Only English', b UInt8) ENGINE = Memory")
    found = {entry.column: entry for entry in await dictionary.entries(warehouse) if entry.table == "new"}
    assert (found["a"].english, found["a"].french, found["b"].english) == ("Only English", "", "")
