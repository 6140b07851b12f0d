"""The tag's files on a real port: caching, pinned versions, paths by settings."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha384
from importlib import resources
from pathlib import Path

import pytest

from pinstream.collect.tagfiles import ASKED, ENDPOINT, MAX_KEPT, NOT_SERVED, TagFiles
from pinstream.errors import Misconfigured
from pinstream.event import EVENTS
from pinstream.settings import Collect
from tests.collect.conftest import SHOP, SITE, client, running

STATIC = Path(str(resources.files("pinstream.collect") / "static"))
PAGE = {"site": SITE.tag_id, "consent": "yes", "event": "page_visit"}


def test_every_built_file_is_served_beside_the_script() -> None:
    files = TagFiles("/tag.js", "/p/i")
    built = [path for path in STATIC.rglob("*") if path.is_file() and path.name not in NOT_SERVED]
    assert built
    for path in built:
        assert files.paths[f"/{path.relative_to(STATIC)}"].body == path.read_bytes()


@pytest.mark.parametrize("name", ["tag.js", "tag.mjs", "mirror.js", "debug.js"])
def test_a_script_names_its_endpoint_once(name: str) -> None:
    """Else a setting could not move it."""
    file = STATIC / name
    assert file.read_bytes().count(ENDPOINT) == 1


@pytest.mark.parametrize(
    ("script_path", "endpoint_path", "relative"),
    [
        ("/tag.js", "/p/i", b'"p/i"'),
        ("/a/b/c.js", "/p/i", b'"../../p/i"'),
        ("/a/c.js", "/a/x", b'"x"'),
        ("/s.js", "/x/y", b'"x/y"'),
    ],
)
def test_the_endpoint_is_relative_to_the_script(script_path: str, endpoint_path: str, relative: bytes) -> None:
    """So that a proxy may put both under a path of its own."""
    assert relative in TagFiles(script_path, endpoint_path).script().body


def test_the_badge_asks_relative_to_itself_and_names_that_once() -> None:
    assert (STATIC / "badge.js").read_bytes().count(ASKED) == 1
    files = TagFiles("/a/b/c.js", "/p/i").paths
    assert b'"../../v1/popular"' in files["/a/b/badge.js"].body and ASKED in files["/badge.js"].body


@pytest.mark.parametrize("name", ["mirror.js", "debug.js"])
def test_a_name_of_another_file_is_no_script_path(name: str) -> None:
    with pytest.raises(Misconfigured, match=name):
        TagFiles(f"/x/{name}", "/p/i")


@pytest.mark.parametrize("path", ["/v1/engagements", "/v1/x", "/v3", "/v3/x", "/healthz"])
async def test_a_path_that_means_something_else_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(Misconfigured, match=path):
        async with running(tmp_path, settings=Collect(endpoint_path=path)):
            pass


async def test_a_pinned_script_is_kept_for_ever_and_may_be_checked(tmp_path: Path) -> None:
    file = TagFiles("/tag.js", "/p/i").script()
    async with running(tmp_path) as edge, client(edge, origin="https://nobody.example") as http:
        found = await http.get(f"/tag.{file.short_hash}.js")
        assert found.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert found.headers["access-control-allow-origin"] == "*"  # integrity is checked on CORS requests only
        assert f"sha384-{b64encode(sha384(found.content).digest()).decode()}" == file.integrity
        assert (await http.get("/tag.0123456789abcdef.js")).status_code == 404


@pytest.mark.parametrize("encoding", ["gzip, deflate, br", "identity"])
async def test_the_plain_name_is_looked_at_again(tmp_path: Path, encoding: str) -> None:
    async with running(tmp_path) as edge, client(edge, **{"accept-encoding": encoding}) as http:
        first = await http.get("/tag.js")
        assert first.content == (STATIC / "tag.js").read_bytes()
        assert first.headers["content-type"] == "text/javascript; charset=utf-8"
        assert first.headers["cache-control"] == "public, max-age=300"
        assert "Accept-Encoding" in first.headers["vary"]
        assert first.headers.get("content-encoding") == ("gzip" if "gzip" in encoding else None)
        assert int(first.headers["content-length"]) < (3000 if "gzip" in encoding else 10_000)
        again = await http.get("/tag.js", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await http.get("/tag.js", headers={"if-none-match": '"old"'})).status_code == 200


async def test_the_two_encodings_have_tags_of_their_own(tmp_path: Path) -> None:
    async with running(tmp_path) as edge, client(edge) as http:
        tags = {
            (await http.get("/tag.js", headers={"accept-encoding": encoding})).headers["etag"]
            for encoding in ("gzip", "identity")
        }
    assert len(tags) == 2


@pytest.mark.parametrize("hot", [True, False])
async def test_both_paths_are_settings_and_the_old_ones_still_work(tmp_path: Path, hot: bool) -> None:
    moved = Collect(commit_interval_ms=1, script_path="/s/shop.js", endpoint_path="/s/x")
    async with running(tmp_path, settings=moved, hot=hot) as edge, client(edge) as http:
        assert b'"x"' in (await http.get("/s/shop.js")).content
        assert b'"s/x"' in (await http.get("/tag.js")).content
        for path in ("/s/x", "/p/i"):
            assert (await http.post(path, json=PAGE | {"event_id": path})).status_code == 204
        preflight = await http.options("/s/x")
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, SHOP)
        assert (await http.get("/s/x")).status_code == 405
        assert {(event["event_id"], event.get("source")) for event in await edge.stored(EVENTS)} == {
            ("/s/x", None),  # the default: from a tag
            ("/p/i", None),
        }


# --- what was pinned goes on being served ------------------------------------------------------------


def test_an_upgrade_does_not_silence_pages_that_pinned_the_version_before(tmp_path: Path) -> None:
    before = TagFiles("/tag.js", "/p/i", tmp_path)
    after = TagFiles("/tag.js", "/other", tmp_path)  # other bytes, as after an upgrade
    pinned = f"/tag.{before.script().short_hash}.js"
    assert before.script().body != after.script().body
    assert after.paths[pinned] == before.paths[pinned]
    assert TagFiles("/moved/tag.js", "/p/i", tmp_path).paths[pinned].body == before.script().body


def test_a_kept_file_that_was_changed_is_not_served(tmp_path: Path) -> None:
    TagFiles("/tag.js", "/p/i", tmp_path)
    kept = next(tmp_path.glob("tag.*.js"))
    kept.write_bytes(b"alert(1)")
    (tmp_path / "tag.js").write_bytes(b"alert(1)")
    files = TagFiles("/tag.js", "/other", tmp_path)
    assert all(file.body != b"alert(1)" for file in files.paths.values())


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    for version in range(MAX_KEPT + 3):
        TagFiles("/tag.js", f"/v{version}x", tmp_path)
    served = [path for path in TagFiles("/tag.js", "/p/i", tmp_path).paths if re.match(r"/tag\.[0-9a-f]{16}\.js", path)]
    assert len(served) <= MAX_KEPT + 1
    assert f"/tag.{TagFiles('/tag.js', f'/v{version}x').script().short_hash}.js" in served


def test_a_folder_that_cannot_be_written_costs_only_the_old_versions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tags").write_text("no folder")
    files = TagFiles("/tag.js", "/p/i", tmp_path / "tags")
    assert files.script().body == (STATIC / "tag.js").read_bytes()
    assert "earlier version" in caplog.text
