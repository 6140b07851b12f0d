"""What pages are told of products and Pins, on a real port."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from pinstream.collect.popular import CACHE_NOTHING_S, CACHE_S, MAX_QUERY_BYTES
from pinstream.state.snapshot import Popular
from tests.collect.conftest import SANDBOX, SITE, SNAPSHOT, client, running

NOTHING: dict[str, dict[str, str]] = {"products": {}, "pins": {}}


async def test_bands_of_what_was_asked_for_and_nothing_else(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        asked = {"site": SITE.tag_id, "product": ["none", "café 1/2", "RS-42", "RS-42"], "pin": "1125899906842624"}
        found = await http.get("/v1/popular", params=asked)
        assert found.json() == {
            "products": {
                "café 1/2": {"savers": "50+", "at_least": 50},
                "RS-42": {"savers": "1,000+", "at_least": 1000},
            },
            "pins": {"1125899906842624": {"savers": "200+", "at_least": 200}},
        }
        for site, product in ((SANDBOX.tag_id, "RS-42"), (SITE.tag_id, "1125899906842624"), (SITE.tag_id, "%00%ff%")):
            nothing = await http.get(f"/v1/popular?site={site}&product={product}")
            assert nothing.json() == NOTHING
            assert nothing.headers["cache-control"] == f"public, max-age={CACHE_NOTHING_S}"


async def test_anybody_may_read_and_keep_it_until_it_changes(tmp_path: Path) -> None:
    url = f"/v1/popular?site={SITE.tag_id}&product=RS-42"
    async with running(tmp_path) as edge, client(edge, cookie="ps_vid=x") as http:
        first = await http.get(url)
        assert first.headers["access-control-allow-origin"] == "*"  # although the shop's origin is known
        assert "access-control-allow-credentials" not in first.headers and "set-cookie" not in first.headers
        assert first.headers["cache-control"] == f"public, max-age={CACHE_S}"
        head = await http.head(url)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])
        tag = {"if-none-match": first.headers["etag"]}
        again = await http.get(url, headers=tag)
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        refused = await http.get("/v1/popular?site=1&product=RS-42")
        assert (refused.headers["access-control-allow-origin"], "cache-control" in refused.headers) == ("*", False)
    now = replace(SNAPSHOT, popular={1: Popular(products={"RS-42": 2000})})
    async with running(tmp_path, snapshot=now) as edge, client(edge) as http:
        changed = await http.get(url, headers=tag)
        assert (changed.status_code, changed.json()["products"]["RS-42"]["savers"]) == (200, "2,000+")


async def test_a_query_as_long_as_may_be_is_read(tmp_path: Path) -> None:
    query = f"site={SITE.tag_id}&product=RS-42&x="
    async with running(tmp_path) as edge, client(edge) as http:
        found = await http.get(f"/v1/popular?{query}{'a' * (MAX_QUERY_BYTES - len(query))}")
        assert found.status_code == 200 and "RS-42" in found.json()["products"]
        assert (await http.get(f"/v1/popular?{query}{'a' * (MAX_QUERY_BYTES - len(query) + 1)}")).status_code == 400
