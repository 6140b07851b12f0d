"""The fake Pinterest itself: what it refuses, what it remembers, what it does on demand."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from pinstream.errors import SetupFault
from pinstream.pinterest import audiences, fake, fakeworld, lists
from pinstream.pinterest.client import Client
from pinstream.pinterest.fakeworld import Problem, World, bookmark_of, position_of, records
from tests.fake_pinterest import FakePinterest
from tests.pinterest.conftest import hashed, members

pytestmark = pytest.mark.slow

LISTS = f"/ad_accounts/{fake.AD_ACCOUNT_ID}/customer_lists"
AUDIENCES = f"/ad_accounts/{fake.AD_ACCOUNT_ID}/audiences"
HASH = hashed("ann@shop.example")


@pytest.fixture
def api(fake_pinterest: FakePinterest) -> Iterator[httpx.Client]:
    """Plain HTTP with the right token."""
    headers = {"Authorization": f"Bearer {fake_pinterest.token}"}
    with httpx.Client(base_url=fake_pinterest.base_url, headers=headers, trust_env=False) as api:
        yield api


@pytest.fixture
def list_id(api: httpx.Client) -> str:
    """A list with one member."""
    made = api.post(LISTS, json={"name": "Carts", "records": HASH}).raise_for_status().json()
    return str(made["id"])


# what it refuses


BAD_REQUESTS: list[tuple[str, str, Any, str]] = [
    ("POST", LISTS, {"name": "Carts"}, "records"),
    ("POST", LISTS, {"records": HASH}, "name"),
    ("POST", LISTS, {"name": 7, "records": HASH}, "name"),
    ("POST", LISTS, {"name": "Carts", "records": [HASH]}, "records"),
    ("POST", LISTS, {"name": "Carts", "records": None}, "records"),
    ("POST", LISTS, {"name": "Carts", "records": HASH, "list_type": "email"}, "list_type"),
    ("POST", LISTS, {"name": "Carts", "records": ""}, "no e-mail and no hash"),
    ("POST", LISTS, {"name": "Carts", "records": " , ,"}, "no e-mail and no hash"),
    ("POST", LISTS, {"name": "Carts", "records": "Ann"}, "no e-mail and no hash"),
    ("POST", LISTS, {"name": "Carts", "records": HASH, "operation_type": "ADD"}, "knows no operation_type"),
    ("POST", LISTS, [{"name": "Carts", "records": HASH}], "object"),
    ("POST", LISTS, b"", "body"),
    ("POST", LISTS, b"{", "not JSON"),
    ("POST", LISTS, b"[" * 100_000, "not JSON"),
    ("POST", LISTS, b'{"name": "\\ud800", "records": "a"}', "not JSON"),
    ("POST", LISTS, b'{"name": "\xff", "records": "a"}', "not JSON"),
    ("POST", LISTS, b'{"name": NaN, "records": "a"}', "not JSON"),
    ("PATCH", f"{LISTS}/{{list}}", {"operation_type": "ADD", "records": HASH, "list_type": "EMAIL"}, "no list_type"),
    ("PATCH", f"{LISTS}/{{list}}", {"operation_type": "ADD"}, "records"),
    ("PATCH", f"{LISTS}/{{list}}", {"records": HASH}, "operation_type"),
    ("PATCH", f"{LISTS}/{{list}}", {"operation_type": "add", "records": HASH}, "operation_type"),
    ("PATCH", f"{LISTS}/{{list}}", {"operation": "ADD", "records": HASH}, "operation_type"),
    ("PATCH", f"{LISTS}/abc", {"operation_type": "ADD", "records": HASH}, "abc"),
    ("GET", f"{LISTS}/{'1' * 19}", None, "too long"),
    ("GET", "/ad_accounts/abc/customer_lists", None, "abc"),
    ("GET", f"{LISTS}?page_size=0", None, "minimum"),
    ("GET", f"{LISTS}?page_size=251", None, "maximum"),
    ("GET", f"{LISTS}?page_size=many", None, "many"),
    ("GET", f"{LISTS}?order=RANDOM", None, "RANDOM"),
    ("GET", f"{LISTS}?bookmark=x", None, "bookmark"),
    ("GET", f"{AUDIENCES}?bookmark=%C3%A9", None, "bookmark"),
    ("POST", AUDIENCES, {"name": "A", "rule": {"customer_list_id": "{list}"}}, "audience_type"),
    ("POST", AUDIENCES, {"audience_type": "visitor", "name": "A", "rule": {}}, "visitor"),
    ("POST", AUDIENCES, {"audience_type": "CUSTOMER_LIST", "name": "A"}, "rule"),
    ("POST", AUDIENCES, {"audience_type": "CUSTOMER_LIST", "name": "A", "rule": {}}, "customer_list_id: required"),
    ("POST", AUDIENCES, {"audience_type": "CUSTOMER_LIST", "name": "A", "rule": {"customer_list_id": "7"}}, "no such"),
    ("POST", AUDIENCES, {"audience_type": "CUSTOMER_LIST", "name": "A", "rule": {"customer_list_id": 7}}, "string"),
    ("POST", AUDIENCES, {"audience_type": "CUSTOMER_LIST", "name": "A", "rule": {"customer_list_id": "9" * 30}}, "no"),
    ("POST", AUDIENCES, {"audience_type": "PERSONA", "name": "A", "rule": {}}, "PERSONA"),
    ("POST", AUDIENCES, {"audience_type": "ENGAGEMENT", "name": "A", "rule": {}}, "engagement_domain: required"),
    ("POST", AUDIENCES, {"audience_type": "VISITOR", "name": "A", "rule": {"retention_days": 541}}, "1 to 540"),
    ("POST", AUDIENCES, {"audience_type": "VISITOR", "name": "A", "rule": {"retention_days": 0}}, "1 to 540"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "text"), BAD_REQUESTS, ids=str)
def test_a_request_that_breaks_the_description_gets_the_documented_400(
    api: httpx.Client, fake_pinterest: FakePinterest, list_id: str, method: str, path: str, body: Any, text: str
) -> None:
    if isinstance(body, dict) and body.get("rule", {}).get("customer_list_id") == "{list}":
        body = {**body, "rule": {"customer_list_id": list_id}}
    content: dict[str, Any] = {"json": body} if body is not None else {}
    if isinstance(body, bytes):
        content = {"content": body, "headers": {"Content-Type": "application/json"}}
    answer = api.request(method, path.replace("{list}", list_id), **content)
    assert answer.status_code == 400
    assert set(answer.json()) == {"code", "message"}
    assert re.search(text, answer.json()["message"]), answer.json()
    assert fake_pinterest.members(list_id) == {HASH}
    assert len(fake_pinterest.lists()) == 1
    assert fake_pinterest.audiences() == []


def test_another_media_type_is_refused(api: httpx.Client) -> None:
    answer = api.post(LISTS, data={"name": "Carts", "records": HASH})
    assert (answer.status_code, answer.json()["code"]) == (400, 4196)


@pytest.mark.parametrize("authorization", ["", "Bearer", "Basic abc", "Bearer pina_other", "pina_TESTS0123456789"])
def test_no_token_no_answer(fake_pinterest: FakePinterest, authorization: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    for path in (LISTS, "/user_account", "/ad_accounts"):
        answer = httpx.get(fake_pinterest.base_url + path, headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (401, 2)


def test_another_ad_account_is_closed(api: httpx.Client, list_id: str) -> None:
    for path in ("/ad_accounts/111", "/ad_accounts/111/audiences", f"/ad_accounts/111/customer_lists/{list_id}"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (403, 29)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/pins", 404), ("DELETE", AUDIENCES, 405), ("PUT", LISTS, 405), ("GET", f"{AUDIENCES}/1", 404)],
)
def test_what_is_not_there(api: httpx.Client, method: str, path: str, status: int) -> None:
    answer = api.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, status)


def test_a_body_is_bounded(api: httpx.Client, monkeypatch: pytest.MonkeyPatch, fake_pinterest: FakePinterest) -> None:
    body = b'{"name": "Carts", "records": "%s"}' % HASH.encode()
    headers = {"Content-Type": "application/json"}
    monkeypatch.setattr(fake, "MAX_BODY_BYTES", len(body))
    assert api.post(LISTS, content=body, headers=headers).status_code == 200
    answer = api.post(LISTS, content=body + b" ", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, 413)
    assert len(fake_pinterest.lists()) == 1


# what it remembers


def test_plain_addresses_are_hashed_as_pinterest_would(api: httpx.Client, fake_pinterest: FakePinterest) -> None:
    md5 = hashlib.md5(b"bob@shop.example").hexdigest()
    text = f" Ann@Shop.example,{HASH.upper()}, {md5} ,carl@shop.example,,rubbish"
    made = api.post(LISTS, json={"name": "Carts", "records": text}).json()
    assert fake_pinterest.members(made["id"]) == {HASH, md5, hashed("carl@shop.example")}
    assert (made["num_uploaded_user_records"], made["exceptions"]) == (5, {"invalid_records": 1})
    call = fake_pinterest.calls("customer_lists/create")[0]
    assert (call["records"], call["plain"]) == (5, 2)


@pytest.mark.parametrize(
    ("text", "attempts", "plain", "invalid", "known"),
    [("", 0, 0, 0, 0), (HASH, 1, 0, 0, 1), (f"{HASH},{HASH}", 2, 0, 0, 1), ("a@b", 1, 1, 0, 1), ("a@b@c", 1, 0, 1, 0)],
)
def test_records(text: str, attempts: int, plain: int, invalid: int, known: int) -> None:
    taken = records(text)
    assert (taken.attempts, taken.plain, taken.invalid, len(taken.hashes)) == (attempts, plain, invalid, known)


@pytest.mark.parametrize("order", ["ASCENDING", "DESCENDING"])
def test_pages(api: httpx.Client, order: str) -> None:
    made = [api.post(LISTS, json={"name": str(n), "records": HASH}).json()["id"] for n in range(5)]
    seen, params = [], {"page_size": "2", "order": order}
    for _ in range(3):
        page = api.get(LISTS, params=params).json()
        seen.append([item["id"] for item in page["items"]])
        params["bookmark"] = page["bookmark"] or ""
    assert page["bookmark"] is None
    assert [len(ids) for ids in seen] == [2, 2, 1]
    assert [item for ids in seen for item in ids] == (made if order == "ASCENDING" else made[::-1])


def test_a_full_page_at_the_end_has_no_bookmark(api: httpx.Client) -> None:
    for n in range(4):
        api.post(LISTS, json={"name": str(n), "records": HASH})
    first = api.get(LISTS, params={"page_size": "2"}).json()
    last = api.get(LISTS, params={"page_size": "2", "bookmark": first["bookmark"]}).json()
    assert (len(last["items"]), last["bookmark"]) == (2, None)
    assert api.get(AUDIENCES).json() == {"items": [], "bookmark": None}
    assert api.get(AUDIENCES, params={"ownership_type": "RECEIVED"}).json()["items"] == []


def test_bookmarks_return() -> None:
    assert position_of(bookmark_of(17)) == 17
    with pytest.raises(Problem):
        position_of("YWZ0ZXI6eA==")


def test_an_audience_can_be_edited(api: httpx.Client, list_id: str) -> None:
    body = {"audience_type": "CUSTOMER_LIST", "name": "A", "rule": {"customer_list_id": list_id}}
    made = api.post(AUDIENCES, json=body).json()
    path = f"{AUDIENCES}/{made['id']}"
    changed = api.patch(path, json={"name": "B", "operation_type": "UPDATE"}).json()
    assert (changed["name"], changed["rule"]) == ("B", {"customer_list_id": list_id})
    assert api.patch(path, json={"rule": {"customer_list_id": "7"}}).status_code == 400
    assert api.patch(path, json={"operation_type": "DELETE"}).status_code == 400
    assert api.patch(path, json={"audience_type": "VISITOR"}).status_code == 400
    assert api.get(path).json()["name"] == "B"


@pytest.mark.parametrize(
    ("audience_type", "rule"),
    [
        ("VISITOR", {"visitor_source_id": "77", "event": "addtocart", "retention_days": 540, "event_data": {"x": "y"}}),
        ("ENGAGEMENT", {"engagement_domain": ["shop.example"], "engagement_type": "save"}),
        ("ACTALIKE", {"seed_id": ["7"], "country": "US", "percentage": 10}),
    ],
)
def test_rule_audiences_stay_empty(
    api: httpx.Client, fake_pinterest: FakePinterest, audience_type: str, rule: dict[str, Any]
) -> None:
    made = api.post(AUDIENCES, json={"audience_type": audience_type, "name": "A", "rule": rule}).json()
    assert (made["status"], made["size"], made["rule"]) == ("INITIALIZING", None, rule)
    fake_pinterest.advance(11)
    seen = api.get(f"{AUDIENCES}/{made['id']}").json()
    assert (seen["status"], seen["size"]) == ("TOO_SMALL", 0)


def test_ad_accounts_and_owner(api: httpx.Client) -> None:
    assert [item["id"] for item in api.get("/ad_accounts").json()["items"]] == [fake.AD_ACCOUNT_ID]
    assert api.get(f"/ad_accounts/{fake.AD_ACCOUNT_ID}").json()["permissions"] == ["OWNER"]
    assert api.get("/user_account", params={"ad_account_id": fake.AD_ACCOUNT_ID}).json()["account_type"] == "BUSINESS"


# an answer of its own that breaks the description


def test_an_invalid_answer_of_its_own_is_a_500_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "lists", lambda *_: {"items": [{"id": 7}]})

    async def ask() -> tuple[httpx.Response, int]:
        http = httpx.AsyncClient(headers={"Authorization": "Bearer x"}, trust_env=False)
        async with _own() as (own, base_url), http:
            return await http.get(base_url + LISTS), own.invalid_answers

    answer, count = asyncio.run(ask())
    assert (answer.status_code, count) == (500, 1)
    assert "own answer is invalid" in answer.json()["message"]


@asynccontextmanager
async def _own(**more: Any) -> AsyncIterator[tuple[fake.Fake, str]]:
    """A fake of this test alone."""
    world = World(None, minimum_size=1, processing_s=0)
    own = fake.Fake(world, **more)
    try:
        async with fake.running(own, "127.0.0.1", 0) as port:
            yield own, f"http://127.0.0.1:{port}/v5"
    finally:
        world.close()


# bounds


def test_objects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakeworld, "MAX_OBJECTS", 2)
    world = World(None, minimum_size=1, processing_s=0)
    body = {"audience_type": "VISITOR", "name": "A", "rule": {}}
    for _ in range(2):
        world.create_list("1", "Carts", records(HASH), 0)
        world.create_audience("1", body, 0)
    with pytest.raises(Problem, match="at most 2"):
        world.create_list("1", "Carts", records(HASH), 0)
    with pytest.raises(Problem, match="at most 2"):
        world.create_audience("1", body, 0)
    world.close()


def test_members_are_bounded_and_what_is_too_much_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakeworld, "MAX_MEMBERS", 3)
    world = World(None, minimum_size=1, processing_s=0)
    first = world.create_list("1", "Carts", records(",".join(members(2))), 0)["id"]
    world.change_list("1", first, "ADD", records(",".join(members(3))), 0)
    with pytest.raises(Problem, match="at most 3"):
        world.change_list("1", first, "ADD", records(",".join(members(4))), 0)
    with pytest.raises(Problem, match="at most 3"):
        world.create_list("1", "More", records(",".join(members(1))), 0)
    assert world.members(first) == sorted(members(3))
    assert [item["num_batches"] for item in world.every_list(0)] == [2]
    world.close()


def test_calls_and_faults_are_bounded(api: httpx.Client, fake_pinterest: FakePinterest) -> None:
    for _ in range(fake.MAX_FAULTS):
        fake_pinterest.fault("slow", "ad_accounts/list")
    with pytest.raises(httpx.HTTPStatusError):
        fake_pinterest.fault("slow", "ad_accounts/list")
    own = fake.Fake(World(None, minimum_size=1, processing_s=0))
    for number in range(fake.MAX_CALLS + 1):
        own.note(fake.Call(operation="x", status=number % 2))
    assert (len(own.calls), own.totals["x 0"] + own.totals["x 1"]) == (fake.MAX_CALLS, fake.MAX_CALLS + 1)
    own.world.close()


@pytest.mark.parametrize(
    "body", [{}, {"kind": "flood"}, {"kind": "slow", "ms": -1}, {"kind": "slow", "count": 0}, {"kind": "slow", "x": 1}]
)
def test_a_fault_that_is_not_one_is_refused(fake_pinterest: FakePinterest, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{fake_pinterest.root}/_fake/faults", json=body, trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (400, 400)


# on demand


def test_faults_go_to_their_operation_in_order(api: httpx.Client, fake_pinterest: FakePinterest) -> None:
    fake_pinterest.fault("rate_limited", "ad_accounts/list", retry_after_s=7)
    fake_pinterest.fault("unavailable", count=2)
    assert api.get("/user_account").status_code == 503
    limited = api.get("/ad_accounts")
    assert (limited.status_code, limited.json()["code"], limited.headers["retry-after"]) == (429, 8, "7")
    assert api.get("/ad_accounts").json()["code"] == 4197
    assert api.get("/ad_accounts").status_code == 200
    assert [call["status"] for call in fake_pinterest.calls()] == [503, 429, 503, 200]


@pytest.mark.parametrize(("kind", "applied"), [("drop_before", False), ("drop_after", True)])
def test_a_cut_connection(
    api: httpx.Client, fake_pinterest: FakePinterest, list_id: str, kind: str, applied: bool
) -> None:
    fake_pinterest.fault(kind, "customer_lists/update")
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        api.patch(f"{LISTS}/{list_id}", json={"operation_type": "ADD", "records": hashed("b")})
    assert (hashed("b") in fake_pinterest.members(list_id)) is applied
    assert fake_pinterest.calls()[-1]["status"] == 0


def test_slow(api: httpx.Client, fake_pinterest: FakePinterest) -> None:
    fake_pinterest.fault("slow", ms=300)
    began = time.monotonic()
    assert api.get("/user_account").status_code == 200
    assert time.monotonic() - began >= 0.3


def test_reset_forgets_and_ids_are_not_used_again(
    api: httpx.Client, fake_pinterest: FakePinterest, list_id: str
) -> None:
    fake_pinterest.fault("unavailable")
    fake_pinterest.reset()
    assert (fake_pinterest.lists(), fake_pinterest.calls()) == ([], [])
    again = api.post(LISTS, json={"name": "Carts", "records": HASH}).json()["id"]
    assert int(again) > int(list_id)


# its own process


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], FakePinterest]]:
    """The command, on a free port."""
    command = [sys.executable, "-m", "pinstream.pinterest.fake", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stderr is not None
            line = started.stderr.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)/v5", line)
            assert found, line
            yield started, FakePinterest(int(found[1]))
        finally:
            started.kill()


async def test_a_killed_process_comes_back_with_its_lists(tmp_path: Path) -> None:
    options = ["--state", str(tmp_path / "pinterest.db"), "--minimum-size", "2", "--processing-s", "0"]
    with process(*options) as (started, server):
        async with Client(server.settings(access_token=SecretStr("any"))) as client:
            made = await lists.create(client, server.ad_account_id, name="Carts", members=members(50))
            audience = await audiences.create_customer_list_audience(
                client, server.ad_account_id, name="Carts", customer_list_id=made.id
            )
            await lists.change(client, server.ad_account_id, made.id, "REMOVE", members(10))
            before = server.lists()
        started.kill()
    with process(*options, "--token", "pina_only") as (started, server):
        async with Client(server.settings(access_token=SecretStr("pina_only"))) as client:
            assert server.members(made.id) == set(members(40, start=10))
            assert server.lists() == before
            seen = await audiences.get(client, server.ad_account_id, audience.id)
            assert (seen.size, seen.status) == (40, "READY")
            other = await lists.create(client, server.ad_account_id, name="More", members=members(1))
        assert int(other.id) > int(made.id)
        started.terminate()
        assert started.wait(15) == 0


def test_ad_accounts_can_be_named() -> None:
    with process("--ad-account", "111", "--ad-account", "222") as (_, server):
        headers = {"Authorization": "Bearer x"}
        answer = httpx.get(f"{server.base_url}/ad_accounts", headers=headers, trust_env=False)
        assert [item["id"] for item in answer.json()["items"]] == ["111", "222"]


async def test_a_taken_port_is_named(fake_pinterest: FakePinterest) -> None:
    with pytest.raises(SetupFault, match=str(fake_pinterest.port)):
        await fake.serve("127.0.0.1", fake_pinterest.port)


async def test_a_state_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "pinterest.db"):
        with pytest.raises(SetupFault, match=re.escape(str(path))):
            await fake.serve("127.0.0.1", 0, state_file=path)
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is no database, and long enough to be read as one" * 40)
    with pytest.raises(SetupFault, match="broken"):
        await fake.serve("127.0.0.1", 0, state_file=broken)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(broken).execute("PRAGMA journal_mode = WAL")
