"""Every row of the table of cases in docs/http-api.md, against a real server in front of a real journal."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
import zstandard

from pinstream.collect import answer as answers
from pinstream.collect.popular import MAX_QUERY_BYTES
from pinstream.event import LATE_MS, MAX_BODY_BYTES, MAX_EVENTS, REASONS
from pinstream.settings import Collect
from tests.collect.conftest import API_KEY, BROWSER, GONE_EMAIL, OTHER, SHOP, SITE_KEY, VISITOR, Running, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOC = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()

SITE, SANDBOX, STRICT = "2600000000001", "2600000000002", "2600000000003"
HISTORY = "/v1/events?source=import"
MD5 = "d41d8cd98f00b204e9800998ecf8427e"


class Recipe(NamedTuple):
    """A request."""

    method: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = {}
    origin: str | None = SHOP
    limited: bool = False
    """Whether it goes to where `SITE` and `API_KEY` have sent as much as they may."""


def event(**fields: Any) -> dict[str, Any]:
    return {"site": SITE, "consent": "yes", "event": "page_visit", **fields}


def batch(*events: Any, **fields: Any) -> dict[str, Any]:
    return {"site": SITE, "consent": "yes", "events": list(events), **fields}


def post(body: Any, *, path: str = "/p/i", origin: str | None = SHOP, **headers: str) -> Recipe:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Recipe("POST", path, content, named, origin)


def get(path: str, origin: str | None = None, method: str = "GET", **headers: str) -> Recipe:
    return Recipe(method, path, b"", {name.replace("_", "-"): value for name, value in headers.items()}, origin)


def padded(size: int) -> bytes:
    """A good request of exactly this many bytes."""
    body = json.dumps(event()).encode()
    return body[:-1] + b" " * (size - len(body)) + b"}"


def engagement(*, key: str | None = API_KEY, body: Any = None) -> Recipe:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    content = {"site": SITE, "engagements": [{"action": "save"}]} if body is None else body
    return post(content, path="/v1/engagements", origin=None, **headers)


PIXEL = f"/v3/?tid={SITE}&consent=yes&event=checkout&ed[value]=42.50&ed[currency]=EUR&pd[em]={'a' * 64}"
POPULAR = f"/v1/popular?site={SITE}"
FORM = {"content_type": "application/x-www-form-urlencoded"}
BOMB = bytes(50 << 20)
GPC = {"sec_gpc": "1"}

RECIPES: dict[str, Recipe] = {
    "one event": post(event(event_id="e-1")),
    "one event as application/json": post(event(), content_type="application/json"),
    "one event on /v1/events": post(event(), path="/v1/events", origin=None),
    "one event on /v1/events with a key": post(event(site=STRICT), path="/v1/events", origin=None, x_api_key=API_KEY),
    "a wrong key on /v1/events": post(event(), path="/v1/events", origin=None, x_api_key="guess"),
    "a key of another site on /v1/events": post(event(), path="/v1/events", origin=None, x_api_key=SITE_KEY),
    "history": post(event(event="checkout", time=1, order_id="A-1"), path=HISTORY, origin=None, x_api_key=API_KEY),
    "history without a key": post(event(), path=HISTORY, origin=None),
    "history with a key that may not": post(event(site=SANDBOX), path=HISTORY, origin=None, x_api_key=SITE_KEY),
    "one event as a form": post(f"site={SITE}&consent=yes&event=lead&value=1.5".encode(), **FORM),
    "one event in gzip": post(gzip.compress(json.dumps(event()).encode()), content_encoding="gzip"),
    "one event in zstd": post(zstandard.compress(json.dumps(event()).encode()), content_encoding="zstd"),
    "every field": post((Path(__file__).parents[1] / "wire" / "server_full.json").read_bytes()),
    "numbers as text, text as numbers": post(event(value="12.50", order_id=17, order_quantity="2")),
    "100 events": post(batch(*[{"event": "search"}] * MAX_EVENTS)),
    "101 events": post(batch(*[{"event": "search"}] * (MAX_EVENTS + 1))),
    "no events": post(batch()),
    "a good and a bad event": post(batch({"event": "search"}, {"event": "search", "value": -1})),
    "a batch of bad events": post(batch({"event": ""}, {"value": 1})),
    "an event that names a site in a batch": post(batch({"event": "search", "site": SITE})),
    "1 MiB": post(padded(MAX_BODY_BYTES)),
    "1 MiB + 1": post(padded(MAX_BODY_BYTES + 1)),
    "gzip bomb": post(gzip.compress(BOMB), content_encoding="gzip"),
    "zstd bomb": post(zstandard.compress(BOMB), content_encoding="zstd"),
    "not gzip": post(event(), content_encoding="gzip"),
    "unknown encoding": post(event(), content_encoding="br"),
    "empty body": post(b""),
    "blank body": post(b" \n"),
    "bad JSON": post(b'{"site": '),
    "rubbish after JSON": post(b'{"site": "1"} x'),
    "NaN": post(b'{"site": "1", "event": "x", "value": NaN}'),
    "10,000-deep JSON": post(b"[" * 10_000 + b"]" * 10_000),
    "10,000-deep objects": post(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "33-deep JSON": post(json.dumps(event())[:-1].encode() + b',"a":' + b"[" * 32 + b"]" * 32 + b"}"),
    "9-deep props": post(event(props={"a": [[[[[[[[1]]]]]]]]})),
    "raw NUL": post(b'{"site": "1", "event": "a\0b"}'),
    "escaped NUL": post(b'{"site": "%s", "consent": "yes", "event": "a\\u0000b"}' % SITE.encode()),
    "escaped NUL in props": post(b'{"site": "%s", "consent": "yes", "event": "a", "k": "\\u0000"}' % SITE.encode()),
    "lone surrogate": post(b'{"site": "%s", "consent": "yes", "event": "a\\ud800"}' % SITE.encode()),
    "surrogate pair": post(b'{"site": "%s", "consent": "yes", "event": "\\ud83d\\ude00"}' % SITE.encode()),
    "invalid UTF-8": post(b'{"site": "1", "event": "\xff"}'),
    "UTF-16": post('{"site": "1", "event": "x"}'.encode("utf-16")),
    "a list": post(b"[]"),
    "no site": post({"event": "page_visit"}),
    "no event name": post(event(event=None)),
    "wrong type": post(event(url=["https://www.shop.example/"])),
    "no number": post(event(value="much")),
    "negative value": post(event(value=-0.01)),
    "value out of range": post(event(value=1e12)),
    "400-digit value": post(b'{"site": "%s", "event": "x", "value": %s}' % (SITE.encode(), b"9" * 400)),
    "quantity out of range": post(event(order_quantity=65_536)),
    "time out of range": post(event(time=-1)),
    "late time": post(event(time=1)),
    "long URL": post(event(url="https://www.shop.example/" + "x" * 2048)),
    "long props": post(event(note="x" * 8192)),
    "101 line items": post(event(line_items=[{"product_id": "A"}] * 101)),
    "bad currency": post(event(currency="EURO")),
    "bad consent": post(event(consent="maybe")),
    "bad visitor id": post(event(visitor_id="me")),
    "template text": post(event(user={"em": "{{ customer.email }}"})),
    "MD5": post(event(user={"em": [MD5]})),
    "unknown identifier": post(event(user={"nickname": "ann"})),
    "unknown site": post(event(site="1")),
    "wrong origin": post(event(), origin=OTHER),
    "unknown origin": post(event(), origin="https://evil.example"),
    "Origin: null, allowed": post(event(site=SANDBOX), origin="null"),
    "Origin: null, not allowed": post(event(), origin="null"),
    "no Origin, allowed": post(event(), origin=None),
    "no Origin, not allowed": post(event(site=STRICT), origin=None),
    "no consent": post(event(consent="no")),
    "nothing said about consent": post(event(consent="unknown")),
    "consent by the site's default": post(event(site=SANDBOX, consent=None), origin=OTHER),
    "GPC": post(event(), **GPC),
    "DNT": post(event(), dnt="1"),
    "GPC, but an explicit yes wins there": post(event(site=STRICT), **GPC),
    "crawler": post(event(), user_agent="Googlebot/2.1"),
    "erased person": post(event(user={"em": GONE_EMAIL})),
    "consent withdrawn": post(event(event="consent_withdrawn", consent="no", visitor_id=VISITOR)),
    "consent withdrawn by nobody": post(event(event="consent_withdrawn", consent="no")),
    "GPC with a visitor's cookie": post(event(), cookie=f"ps_vid={VISITOR}", **GPC),
    "GET /p/i": get("/p/i", SHOP),
    "PUT /p/i": get("/p/i", SHOP, "PUT"),
    "DELETE /v1/events": get("/v1/events", SHOP, "DELETE"),
    "GET /v1/engagements": get("/v1/engagements"),
    "POST /tag.js": post(b"x", path="/tag.js"),
    "POST /healthz": post(b"x", path="/healthz"),
    "preflight of /p/i": get("/p/i", SHOP, "OPTIONS", access_control_request_method="POST"),
    "preflight of /v1/events": get("/v1/events", SHOP, "OPTIONS", access_control_request_method="POST"),
    "preflight of /v3/": get("/v3/", SHOP, "OPTIONS", access_control_request_method="POST"),
    "preflight from an unknown origin": get("/p/i", "https://evil.example", "OPTIONS"),
    "unknown path": get("/v2/events", SHOP),
    "pixel": get(PIXEL),
    "pixel without slash": get(PIXEL.replace("/v3/", "/v3")),
    "pixel by HEAD": get(PIXEL, method="HEAD"),
    "pixel in JSON parameters": get(f"/v3/?tid={SITE}&consent=yes&event=search&ed=%7B%22search_query%22%3A%22a%22%7D"),
    "pixel by form POST": post(PIXEL.partition("?")[2].encode(), path="/v3/", **FORM),
    "pixel by POST with an empty body": post(b"", path=PIXEL),
    "pixel by JSON POST": post({"tid": SITE, "consent": "yes", "event": "lead", "ed": {"value": 1}}, path="/v3/"),
    "pixel without consent": get(f"/v3/?tid={SITE}&event=init"),
    "pixel with GPC": get(PIXEL, **GPC),
    "pixel without query": get("/v3/"),
    "pixel of an unknown site": get("/v3/?tid=1&event=init"),
    "pixel with a bad value": get(PIXEL.replace("42.50", "much")),
    "pixel with bad JSON": get(f"/v3/?tid={SITE}&event=init&ed=%7B"),
    "pixel with invalid UTF-8": get(f"/v3/?tid={SITE}&event=%FF"),
    "pixel with a NUL": get(f"/v3/?tid={SITE}&consent=yes&event=a%00b"),
    "pixel with a field twice": get(f"/v3/?tid={SITE}&event=init&ed=1&ed[value]=1"),
    "pixel, wrong origin": get(PIXEL, OTHER),
    "an engagement": engagement(),
    "an engagement, key in X-API-Key": engagement(key=None)._replace(headers={"x-api-key": API_KEY}),
    "an engagement without key": engagement(key=None),
    "an engagement with a wrong key": engagement(key="guess"),
    "an engagement with a key of another site": engagement(key=SITE_KEY),
    "an engagement of an unknown site": engagement(body={"site": "1", "engagements": [{"action": "save"}]}),
    "100 engagements": engagement(body={"site": SITE, "engagements": [{"action": "like"}] * MAX_EVENTS}),
    "101 engagements": engagement(body={"site": SITE, "engagements": [{"action": "like"}] * (MAX_EVENTS + 1)}),
    "a good and a bad engagement": engagement(body={"site": SITE, "engagements": [{"action": "like"}, {}]}),
    "an unknown action": engagement(body={"site": SITE, "engagements": [{"action": "poke"}]}),
    "an id out of range": engagement(body={"site": SITE, "engagements": [{"action": "like", "pin_id": 2**64}]}),
    "engagements that are no list": engagement(body={"site": SITE, "engagements": {}}),
    "engagements in bad JSON": engagement(body=b"{"),
    "engagements without body": engagement(body=b""),
    "engagements without consent": engagement(
        body={"site": SITE, "consent": "no", "engagements": [{"action": "like"}]}
    ),
    "one event past the site's limit": post(event())._replace(limited=True),
    "pixel past the site's limit": get(PIXEL)._replace(limited=True),
    "one event past the key's limit": post(
        event(site=SANDBOX), path="/v1/events", origin=None, x_api_key=API_KEY
    )._replace(limited=True),
    "an engagement past the key's limit": engagement(
        body={"site": SANDBOX, "engagements": [{"action": "save"}]}
    )._replace(limited=True),
    "what is popular": get(f"{POPULAR}&product=RS-42&pin=1125899906842624"),
    "what is popular of 100 products and Pins": get(POPULAR + "&product=a" * 50 + "&pin=1" * 50),
    "what is popular of 101 products and Pins": get(POPULAR + "&product=a" * 50 + "&pin=1" * 51),
    "what is popular, no site": get("/v1/popular?product=RS-42"),
    "what is popular, no product": get(f"{POPULAR}&product="),
    "what is popular in a long query": get(f"{POPULAR}&product=" + "a" * MAX_QUERY_BYTES),
    "what is popular of an unknown site": get("/v1/popular?site=1&product=RS-42"),
    "POST /v1/popular": post(b"x", path=POPULAR),
    "the tag": get("/tag.js"),
    "the tag by HEAD": get("/tag.js", method="HEAD"),
    "health": get("/healthz"),
}


class Case(NamedTuple):
    """A row of the table."""

    name: str
    status: int
    reason: str


def cases() -> list[Case]:
    table = DOC.partition("## Cases")[2]
    rows = re.findall(r"^\| (.+?) \| (\d{3}) \| (?:`(\w+)`)? *\|$", table, re.MULTILINE)
    return [Case(name, int(status), reason) for name, status, reason in rows]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    async with running(tmp_path_factory.mktemp("journal")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def limited(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Time stands still here, so that no limit is ever free again."""
    settings = Collect(limits="enforce", site_events_per_s=1, key_events_per_s=1, burst_s=1)
    async with running(tmp_path_factory.mktemp("journal"), settings=settings, clock=lambda: LATE_MS) as found:
        for last in (post(event()), RECIPES["one event on /v1/events with a key"]):
            assert (await answer(found, last)).status_code == 204
        yield found


async def answer(edge: Running, recipe: Recipe) -> httpx.Response:
    headers = {"user-agent": BROWSER} | ({"origin": recipe.origin} if recipe.origin else {}) | recipe.headers
    async with httpx.AsyncClient(base_url=edge.base_url) as client:
        return await client.request(recipe.method, recipe.path, content=recipe.content, headers=headers)


def reasons_in(response: httpx.Response) -> set[str]:
    """Every reason that an answer names, wherever it does."""
    named = {response.headers.get("x-pinstream-refused", ""), response.headers.get("x-pinstream-dropped", "")}
    if response.headers.get("content-type") == "application/json":
        body = response.json()
        named |= {body.get("reason", ""), *(result["reason"] for result in body.get("results", []))}
    return named - {""}


def assert_cors(recipe: Recipe, response: httpx.Response) -> None:
    headers = response.headers
    assert headers["vary"] in ("Origin", "Accept-Encoding, Origin")
    assert headers["access-control-expose-headers"] == "Retry-After, X-Pinstream-Dropped"
    allowed = headers["access-control-allow-origin"]
    refused_origin = "wrong_origin" in reasons_in(response)
    if recipe.origin in (SHOP, OTHER) and not refused_origin:
        assert (allowed, headers.get("access-control-allow-credentials")) == (recipe.origin, "true")
    else:
        assert allowed == ("null" if recipe.origin == "null" and not refused_origin else "*")
        assert "access-control-allow-credentials" not in headers
    if recipe.origin == "null":
        assert "set-cookie" not in headers


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
async def test_a_documented_case(edge: Running, limited: Running, case: Case) -> None:
    recipe = RECIPES[case.name]
    response = await answer(limited if recipe.limited else edge, recipe)
    assert (response.status_code, reasons_in(response)) == (case.status, {case.reason} - {""}), response.text
    assert response.status_code < 500
    assert_cors(recipe, response)
    if response.status_code >= 400 and response.headers["content-type"] == "application/json":
        body = response.json()
        assert (body["reason"], body["hint"]) == (case.reason, REASONS[case.reason][1])
    if recipe.path.startswith("/v3") and recipe.method == "GET":
        assert response.content == answers.GIF and len(answers.GIF) == 43


async def test_the_table_has_every_recipe_and_every_recipe_a_row() -> None:
    assert sorted(case.name for case in cases()) == sorted(RECIPES)


async def test_the_documented_reasons_are_those_there_are() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.*) \|$", DOC.partition("<!-- reasons")[2], re.MULTILINE)
    documented = {reason: (int(status), hint) for reason, status, hint in rows}
    assert documented == {reason: entry for reason, entry in REASONS.items() if entry[0]}


async def test_every_reason_a_client_can_cause_is_in_the_table() -> None:
    ours = {
        "busy",
        "log_full",
        "log_away",
        "log_uncertain",
        "log_broken",
        "too_slow",
        "bad_http",
        "state_away",
        "warehouse_away",
        "warehouse",
        "head_too_large",
    }
    assert {case.reason for case in cases()} - {""} == {reason for reason, entry in REASONS.items() if entry[0]} - ours


async def test_the_documented_bodies_are_taken(edge: Running) -> None:
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOC, re.DOTALL)]
    for body in blocks:
        if "events" in body:
            assert (await answer(edge, post(body))).status_code == 204
        if "engagements" in body:
            assert (await answer(edge, engagement(body=body))).status_code == 204
    assert sum("events" in body or "engagements" in body for body in blocks) == 2


async def test_every_documented_field_exists() -> None:
    from pinstream.collect.wire import USER_KEYS
    from pinstream.event import LineItem, RawEvent

    for name in (*RawEvent.__struct_fields__, *LineItem.__struct_fields__, *USER_KEYS):
        assert f"`{name}`" in DOC, name
    assert LATE_MS == 7 * 86_400_000
