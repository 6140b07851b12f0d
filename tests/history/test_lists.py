"""Lists of people: from a file or a request into rules, and off again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pinstream.audiences import compile
from pinstream.audiences.rule import OnList, Rule, to_json
from pinstream.clock import now_ms
from pinstream.collect.identity import digest
from pinstream.console import app
from pinstream.errors import Refused
from pinstream.history.importing import Bad
from pinstream.history.lists import INSERT_MEMBERS, MAX_SENT, ListImport, ListReport, Lists, Operation
from pinstream.state.snapshot import Site
from pinstream.state.store import Store
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import Seen, load
from tests.history.place import csv
from tests.warehouse_server import PASSWORD

SHOP = Site(id=0, tag_id="shop", phone_region="DE")


class Desk:
    """A shop, its lists, and who is on them."""

    def __init__(self, store: Store, warehouse: Warehouse, folder: Path) -> None:
        self.store, self.warehouse, self.folder = store, warehouse, folder
        self.site = store.add_site(SHOP, now_ms=1)
        self.lists = Lists(store, warehouse)
        self.bad: list[Bad] = []

    async def take(
        self, text: str | bytes, operation: Operation = "add", name: str = "VIP", **columns: str
    ) -> ListReport:
        path = self.folder / "list.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        target = await asyncio.to_thread(self.store.add_list, site_id=self.site.id, name=name, now_ms=1)
        run = ListImport(self.lists, self.site, target, operation)
        stop = asyncio.Event()
        return await run.run(path, columns, "utf-8", stop=stop, say=lambda _: None, name_bad=self.bad.append)

    async def members(self, list_id: int = 1) -> set[tuple[str, str]]:
        rows = await self.warehouse.select(
            "SELECT toString(id_type) AS kind, lower(hex(id_value)) AS value FROM list_member FINAL "
            "WHERE site_id = {site:UInt32} AND list_id = {list:UInt32}",
            {"site": self.site.id, "list": list_id},
        )
        return {(row["kind"], row["value"]) for row in rows}

    async def on_list(self) -> set[str]:
        query = compile.members(Rule(all=(OnList(lists=(1,)),)), site_id=self.site.id, now_ms=now_ms())
        return {row["em"].hex() for row in await self.warehouse.select(query.sql, query.params)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store.open(f"sqlite:///{tmp_path / 'data' / 'state.db'}")
    yield found
    found.close()


@pytest.fixture
def desk(store: Store, warehouse: Warehouse, tmp_path: Path) -> Desk:
    return Desk(store, warehouse, tmp_path)


@pytest.fixture
async def ask(desk: Desk) -> AsyncIterator[Callable[..., Any]]:
    """The API with a key that may import."""
    key = desk.store.create_key(site_id=desk.site.id, label="", now_ms=1, may_import=True)
    transport = httpx.ASGITransport(app.build(desk.store, desk.lists, now_ms))
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://console", headers=headers) as client:
        yield client.request


async def test_a_member_matches_a_rule_by_email_phone_or_customer_number(desk: Desk) -> None:
    seen = [
        Seen(1, "page_visit", 60, em="ann@shop.example"),
        Seen(2, "page_visit", 60, em="bob@shop.example", ph="4915123456789"),
        Seen(3, "page_visit", 60, em="cid@shop.example", x="customer-17"),
        Seen(4, "page_visit", 60, em="dee@shop.example"),
        Seen(5, "page_visit", 60, em="eve@shop.example", consent="no"),
    ]
    await load(desk.warehouse, desk.site.id, seen)
    rows = [
        (" Ann@Shop.example ", "", ""),
        ("", "+49 151 23456789", ""),
        ("", "", "Customer-17"),
        ("eve@shop.example", "", ""),
        ("never.seen@shop.example", "", ""),
    ]
    report = await desk.take(csv(("Email", "Phone", "customer_id"), *rows))
    assert (report.finished, report.rows, report.members, report.refused) == (True, 5, 5, {})
    assert await desk.on_list() == {digest(f"{name}@shop.example") for name in ("ann", "bob", "cid")}
    # plain identifiers are nowhere
    [kept] = await desk.warehouse.select("SELECT groupArray(toString(tuple(*))) AS rows FROM list_member")
    assert "@" not in str(kept) and "customer-17" not in str(kept).lower()

    await desk.take("Email,Phone\n,0151 23456789\nann@shop.example,\n", "remove")
    assert await desk.on_list() == {digest("cid@shop.example")}
    again = await desk.take("Email\nann@shop.example\n")
    assert again.members == 1 and digest("ann@shop.example") in await desk.on_list()


async def test_bad_rows_are_named_and_erased_people_left_out(desk: Desk) -> None:
    desk.store.suppress([digest("gone@shop.example")], now_ms=1)
    rows = [
        ("ann@shop.example", "12"),
        ("not an address", ""),
        ("d" * 32, ""),
        (digest("bob@shop.example").upper(), ""),
        ("gone@shop.example", ""),
        ("", ""),
        ("{{ email }}", "x"),
    ]
    report = await desk.take(csv(("E-Mail Address", "Phone"), *rows), em="E-Mail Address")
    assert await desk.members() == {("em", digest("ann@shop.example")), ("em", digest("bob@shop.example"))}
    assert (report.rows, report.members, report.ignored) == (6, 2, {"bad_value": 1})
    assert (report.dropped, report.refused) == ({"suppressed": 1}, {"bad_value": 2, "bad_hash": 1})
    assert [(bad.line, bad.reason) for bad in desk.bad] == [(3, "bad_value"), (4, "bad_hash"), (8, "bad_value")]


async def test_a_file_of_addresses_needs_no_head(desk: Desk) -> None:
    await desk.take("\ufeffann@shop.example\nbob@shop.example\n")
    await desk.take(f"{digest('cid@shop.example')}\n")
    assert {value for _, value in await desk.members()} == {
        digest(f"{name}@shop.example") for name in ("ann", "bob", "cid")
    }
    with pytest.raises(Refused, match="--column em="):
        await desk.take("Kunde,Ort\n1,Berlin\n")


async def test_stray_quotes_cost_nobody_else_their_place(desk: Desk) -> None:
    lines = [f"c{number}@shop.example\n" for number in range(300)]
    lines[20], lines[40], lines[200] = f'"{lines[20]}', f'{lines[40].strip()}"\n', f'"{lines[200]}'
    report = await desk.take("".join(lines))
    assert [(bad.line, bad.reason) for bad in desk.bad] == [(21, "bad_value"), (201, "too_long")]
    assert (report.rows, report.members, len(await desk.members())) == (300, 298, 298)


async def test_many_are_added_twice_and_taken_off_in_several_statements(desk: Desk) -> None:
    """As rows, and with no mutation, which takes seconds whatever it deletes."""
    count = 2 * INSERT_MEMBERS + 1
    text = "email\n" + "".join(f"c{number}@shop.example\n" for number in range(count))
    for _ in range(2):
        await desk.take(text)
        assert len(await desk.members()) == count
    await desk.take("email\nstays@shop.example\n")
    mutations = "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND table = 'list_member'"
    before = await desk.warehouse.select(mutations)
    await desk.take(text, "remove")
    assert await desk.members() == {("em", digest("stays@shop.example"))}
    assert [each.members for each in await desk.lists.all()] == [1]
    assert await desk.warehouse.select(mutations) == before
    await desk.warehouse.command("OPTIMIZE TABLE list_member FINAL")  # nobody comes back by a merge
    assert await desk.members() == {("em", digest("stays@shop.example"))}


async def test_a_list_that_an_audience_asks_for_stays(desk: Desk) -> None:
    await desk.take("email\nann@shop.example\n")
    await desk.take("email\nann@shop.example\n", name="Newsletter")
    rule = to_json(Rule(all=(OnList(lists=(1,)),)))
    audience = desk.store.add_audience(site_id=desk.site.id, name="a", rule=rule, now_ms=1)
    with pytest.raises(Refused, match="Audience 1"):
        await desk.lists.drop(desk.store.list_numbered(1))
    desk.store.remove_audience(audience.id)
    await desk.lists.drop(desk.store.list_numbered(1))
    assert [(each.name, each.members) for each in await desk.lists.all()] == [("Newsletter", 1)]
    assert await desk.members() == set()


# --- HTTP --------------------------------------------------------------------------------------------


async def test_the_api_makes_fills_and_drops_a_list(desk: Desk, ask: Callable[..., Any]) -> None:
    made = await ask("POST", "/v1/lists", json={"site": "shop", "name": "VIP"})
    assert (made.status_code, made.json()) == (201, {"id": 1, "name": "VIP"})
    assert (await ask("POST", "/v1/lists", json={"site": "shop", "name": "VIP"})).json()["id"] == 1
    sent = {"add": {"em": ["ann@shop.example", "x", digest("bob@shop.example")], "ph": "0151 23456789"}}
    done = await ask("POST", "/v1/lists/1/members", json=sent)
    assert done.status_code == 200
    assert {name: done.json()[name] for name in ("added", "removed", "suppressed", "refused")} == {
        "added": 3,
        "removed": 0,
        "suppressed": 0,
        "refused": 1,
    }
    assert [(each["field"], each["reason"]) for each in done.json()["results"]] == [("$.add.em[1]", "bad_value")]
    assert (await ask("GET", "/v1/lists?site=shop")).json() == {"lists": [{"id": 1, "name": "VIP", "members": 3}]}
    await ask("POST", "/v1/lists/1/members", json={"remove": {"em": "Ann@shop.example"}})
    assert await desk.members() == {("em", digest("bob@shop.example")), ("ph", digest("4915123456789"))}
    assert (await ask("DELETE", "/v1/lists/1")).status_code == 204
    assert (await ask("GET", "/v1/lists?site=shop")).json() == {"lists": []}


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/v1/lists/9/members", {"add": {"em": "a@b.de"}}, 404, "not_found"),
    ("POST", "/v1/lists/1/members", {"add": {"nickname": "ann"}}, 400, "bad_value"),
    ("POST", "/v1/lists/1/members", {"add": ["a@b.de"]}, 400, "bad_type"),
    ("POST", "/v1/lists/1/members", {}, 400, "bad_value"),
    ("POST", "/v1/lists/1/members", {"add": {"external_id": ["1"] * (MAX_SENT + 1)}}, 400, "too_many"),
    ("POST", "/v1/lists/1/members", {"add": {"em": "x" * (1 << 20)}}, 413, "too_large"),
    ("POST", "/v1/lists", {"site": "shop"}, 400, "bad_value"),
    ("POST", "/v1/lists", {"site": "other", "name": "VIP"}, 403, "bad_key"),
    ("POST", "/v1/lists", {"site": "nobody", "name": "VIP"}, 403, "unknown_site"),
    ("GET", "/v1/lists", None, 400, "missing_field"),
    ("DELETE", "/v1/lists/2", None, 404, "not_found"),
]


async def test_what_the_api_refuses(desk: Desk, ask: Callable[..., Any]) -> None:
    desk.store.add_list(site_id=desk.site.id, name="VIP", now_ms=1)
    other = desk.store.add_site(Site(id=0, tag_id="other"), now_ms=1)
    desk.store.add_list(site_id=other.id, name="theirs", now_ms=1)
    for method, path, body, status, reason in REFUSED:
        found = await ask(method, path, **({} if body is None else {"json": body}))
        assert (found.status_code, found.json()["reason"]) == (status, reason), (method, path)


async def test_what_is_not_there_is_told_as_everything_else(ask: Callable[..., Any]) -> None:
    for method, path, status, reason, allow in (
        ("PUT", "/v1/lists", 405, "method_not_allowed", {"GET", "HEAD", "POST"}),
        ("GET", "/v1/lists/1", 405, "method_not_allowed", {"DELETE"}),
        ("GET", "/v1/nothing", 404, "not_found", set()),
    ):
        found = await ask(method, path)
        assert found.status_code == status
        assert found.json().keys() == {"reason", "field", "hint"} and found.json()["reason"] == reason
        assert set(filter(None, found.headers.get("allow", "").split(", "))) == allow


async def test_the_api_wants_a_key_that_may_import(desk: Desk, ask: Callable[..., Any]) -> None:
    weak = desk.store.create_key(site_id=None, label="", now_ms=1)
    for headers in ({"authorization": ""}, {"authorization": "Bearer guess"}, {"authorization": f"Bearer {weak}"}):
        found = await ask("GET", "/v1/lists?site=shop", headers=headers)
        assert (found.status_code, found.json()["reason"]) == (403, "bad_key")


async def test_while_clickhouse_is_away_the_api_says_when_to_ask_again(desk: Desk) -> None:
    away = Warehouse.open(desk.warehouse.settings.model_copy(update={"url": "http://127.0.0.1:1"}), password="")
    key = desk.store.create_key(site_id=None, label="", now_ms=1, may_import=True)
    transport = httpx.ASGITransport(app.build(desk.store, Lists(desk.store, away), now_ms))
    async with httpx.AsyncClient(transport=transport, base_url="http://console") as client:
        found = await client.get("/v1/lists?site=shop", headers={"x-api-key": key})
    await away.aclose()
    assert (found.status_code, found.json()["reason"], "retry-after" in found.headers) == (503, "warehouse_away", True)


# --- the command line --------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_commands(desk: Desk) -> None:
    own = desk.warehouse.settings
    environment = {
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
        "PINSTREAM_DATA_DIR": str(desk.folder / "data"),
        "PINSTREAM_WAREHOUSE__URL": own.url,
        "PINSTREAM_WAREHOUSE__PASSWORD": PASSWORD,
        "PINSTREAM_WAREHOUSE__DATABASE": own.database,
    }

    async def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pinstream", "lists", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout or done.stderr

    (desk.folder / "vip.csv").write_text("email\nann@shop.example\nnobody\n")
    named = ("--list", "VIP", "--site", "shop")
    code, said = await run("import", str(desk.folder / "vip.csv"), *named, "--json")
    assert code == 0 and json.loads(said)["refused"] == {"bad_value": 1}
    code, said = await run("list", "--json")
    assert json.loads(said) == [{"id": 1, "site_id": desk.site.id, "name": "VIP", "members": 1}]
    assert (await run("remove", str(desk.folder / "vip.csv"), *named))[0] == 0
    assert await desk.members() == set()
    assert (await run("drop", *named))[0] == 0
    code, said = await run("drop", *named)
    assert code == 1 and "There is no list VIP" in said


async def test_a_file_without_a_head_says_itself_what_it_holds(desk: Desk) -> None:
    mixed = f"+49 151 23456789\nann@shop.example\n{digest('cid@shop.example')}\n0151 9999999\n"
    report = await desk.take(mixed)
    assert (report.rows, report.members, report.refused) == (4, 4, {})
    numbers = {("ph", digest("4915123456789")), ("ph", digest("491519999999"))}
    mails = {("em", digest("ann@shop.example")), ("em", digest("cid@shop.example"))}
    assert await desk.members() == numbers | mails
    assert (await desk.take("identifier\n0151 23456789\n", "remove")).members == 1
