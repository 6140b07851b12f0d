"""What `pinstream snippet` prints, for every platform."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256, sha384
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from pinstream.cli import Platform
from pinstream.collect.snippet import PLATFORMS, Snippet, snippet
from pinstream.collect.tagfiles import TagFiles
from pinstream.errors import Misconfigured
from pinstream.event import EVENTS
from pinstream.state.snapshot import Site, Snapshot
from tests.collect.conftest import SHOP, client, running

URL = "https://t.shop.example"
FILES = TagFiles("/tag.js", "/p/i")
SITE = Site(id=1, tag_id="my-shop", origins=(SHOP,), allow_null_origin=True)
ASKED = msgspec.structs.replace(SITE, consent_default="no")


def printed(platform: str, site: Site = SITE, url: str = URL, files: TagFiles = FILES) -> Snippet:
    return snippet(site, platform, url, files)


class Elements(HTMLParser):
    """The elements of a page's source, with their attributes; the text of inline scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script" and data.strip():
            self.inline.append(data)


def script_of(text: str) -> dict[str, str | None]:
    return next(attributes for tag, attributes in Elements(text).found if tag == "script")


def test_the_command_line_knows_every_platform() -> None:
    assert [platform.value for platform in Platform] == list(PLATFORMS)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_gap_is_left_and_the_site_and_the_host_are_there(platform: str) -> None:
    made = printed(platform, ASKED)
    assert "{{" not in made.text
    assert "my-shop" in made.text
    assert "https://t.shop.example/" in made.text
    assert made.notes == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_paths_by_settings_and_by_a_proxy_are_followed(platform: str) -> None:
    files = TagFiles("/s/shop.js", "/s/x")
    made = printed(platform, url="https://www.shop.example/ps/", files=files)
    name, script = ("mirror", files.paths["/s/mirror.js"]) if platform == "mirror" else ("shop", files.script())
    assert made.script_url == f"https://www.shop.example/ps/s/{name}.js"
    assert made.pinned_url == f"https://www.shop.example/ps/s/{name}.{script.short_hash}.js"
    for address in re.findall(r"https://www\.shop\.example[^\s\"'<>)]*", made.text):
        assert address.startswith(("https://www.shop.example/ps/s/", "https://www.shop.example/ps/v"))
    assert made.csp["connect-src"] == ["https://www.shop.example"]


@pytest.mark.parametrize(
    "url", ["t.shop.example", "ftp://t.shop.example", 'https://t"><script>', "https://a/?b", "", " "]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"such as|Such as"):
        printed("html", url=url)


def test_the_inline_script_is_allowed_by_its_hash() -> None:
    made = printed("html")
    (code,) = Elements(made.text).inline
    digest = b64encode(sha256(code.encode()).digest()).decode()
    assert made.csp["script-src"] == [f"'sha256-{digest}'", URL]
    assert made.csp["img-src"] == [URL]


@pytest.mark.parametrize("platform", ["html-csp", "mirror", "image"])
def test_nothing_is_inline(platform: str) -> None:
    elements = Elements(printed(platform).text)
    assert elements.inline == []
    assert not any(name.startswith("on") or name == "style" for _, attributes in elements.found for name in attributes)
    assert printed(platform).csp["script-src"] == [URL]


@pytest.mark.parametrize("platform", ["html", "html-csp", "mirror"])
def test_the_pinned_element_holds_the_hash_of_what_is_served(platform: str) -> None:
    made = printed(platform)
    attributes = script_of(made.pinned)
    body = FILES.paths[made.pinned_url.removeprefix(URL)].body
    assert attributes["integrity"] == made.integrity == f"sha384-{b64encode(sha384(body).digest()).decode()}"
    assert attributes["crossorigin"] == "anonymous"
    assert attributes["data-site"] == "my-shop"
    assert script_of(made.text).get("src") in (None, made.script_url)


def test_who_embeds_the_tag_is_told_that_it_waits_for_a_yes() -> None:
    told = {platform for platform in PLATFORMS if any("before a yes" in note for note in printed(platform).notes)}
    assert told == {"html", "html-csp", "mirror", "gtm", "magento", "react", "vue"}


def test_the_tag_goes_by_what_the_server_goes_by() -> None:
    site = msgspec.structs.replace(SITE, consent_default="yes", explicit_yes_overrides_gpc=True)
    for platform in ("html-csp", "mirror"):
        attributes = script_of(printed(platform, site).text)
        assert attributes["data-consent"] == "yes"
        assert attributes["data-explicit_yes_overrides_gpc"] == "true"
    options = '{pagevisit: true, consent: "yes", explicit_yes_overrides_gpc: true}'
    assert f'pintrk("load", "my-shop", {options});' in printed("html", site).text
    assert 'consent="yes" explicit_yes_overrides_gpc />' in printed("react", site).text
    assert 'consent: "yes", explicit_yes_overrides_gpc: true }' in printed("vue", site).text
    assert 'consent: "yes",' in printed("shopify", site).text
    assert "consent" not in printed("html-csp").text


def test_the_mirror_sends_no_page_visits_of_its_own() -> None:
    """Pinterest's tag says when there is one."""
    assert "data-pagevisit" in script_of(printed("html-csp").text)
    assert "data-pagevisit" not in script_of(printed("mirror").text)


async def test_the_image_is_an_event(tmp_path: Path) -> None:
    (image,) = (attributes for tag, attributes in Elements(printed("image").text).found if tag == "img")
    async with running(tmp_path, snapshot=Snapshot(taken_ms=1, sites=(SITE,))) as edge, client(edge) as http:
        response = await http.get(str(image["src"]).removeprefix(URL))
        assert response.status_code == 200
        assert "x-pinstream-dropped" not in response.headers
        assert [event["event"] for event in await edge.stored(EVENTS)] == ["page_visit"]


def test_magentos_files_are_xml_and_let_the_host_in() -> None:
    files = re.findall(r"<\?xml.*?</(?:csp_whitelist|page)>", printed("magento").text, re.DOTALL)
    whitelist, layout = (ElementTree.fromstring(file) for file in files)
    assert [policy.get("id") for policy in whitelist.iter("policy")] == ["script-src", "connect-src", "img-src"]
    assert {value.text for value in whitelist.iter("value")} == {"t.shop.example"}
    assert layout.find(".//block[@template]") is not None


def test_the_snippet_is_json() -> None:
    assert json.loads(msgspec.json.encode(printed("gtm")))["platform"] == "gtm"


@pytest.mark.parametrize(
    ("platform", "changes", "url", "note"),
    [
        ("shopify", {"allow_null_origin": False}, URL, "--null-origin"),
        ("image", {"allow_no_origin": False}, URL, "images send none"),
        ("html", {}, "http://t.shop.example", "https"),
    ],
)
def test_what_would_keep_events_away_is_said(platform: str, changes: dict[str, bool], url: str, note: str) -> None:
    (said,) = printed(platform, msgspec.structs.replace(ASKED, **changes), url).notes
    assert note in said
