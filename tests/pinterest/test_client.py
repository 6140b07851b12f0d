"""Token, pace, retries and errors of the client, against the fake, over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from pydantic import SecretStr

from pinstream import metrics
from pinstream.errors import Misconfigured, PinterestAway, PinterestError, PinterestRefused, RateLimited, Refused
from pinstream.pinterest import audiences, fake, lists
from pinstream.pinterest import client as client_module
from pinstream.pinterest.client import Client, Operation, Pace, retry_after_s
from pinstream.pinterest.types import CustomerList, Page, error_body
from tests.fake_pinterest import TOKEN, FakePinterest
from tests.pinterest.conftest import members

OPERATIONS: list[Operation[object]] = [
    value
    for module in (client_module, lists, audiences)
    for value in vars(module).values()
    if isinstance(value, Operation)
]


def statuses(fake_pinterest: FakePinterest, operation: str) -> list[int]:
    return [call["status"] for call in fake_pinterest.calls(operation)]


# operations


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_each_operation_is_in_the_description(operation: Operation[object]) -> None:
    paths = fake.description()["paths"]
    shapes = {_shape(path): path for path in paths}
    described = paths[shapes[operation.path]][operation.method.lower()]
    assert described["operationId"] == operation.name


def test_creations_are_the_only_ones_not_repeated() -> None:
    assert {operation.name for operation in OPERATIONS if not operation.repeatable} == {
        "customer_lists/create",
        "audiences/create",
    }
    assert len(OPERATIONS) == 10


def _shape(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.parametrize("bad", ["", "1" * 19, "1/2", "../1", "1?x=2", "a", "1\n", "-1", "\u0661", "1%2F2"])
async def test_ids_cannot_bend_the_path(client: Client, fake_pinterest: FakePinterest, bad: str) -> None:
    with pytest.raises(Refused):
        await lists.get(client, bad, "1")
    with pytest.raises(Refused):
        await lists.get(client, "1", bad)
    assert fake_pinterest.calls() == []


async def test_the_token_can_be_checked(client: Client, fake_pinterest: FakePinterest) -> None:
    assert (await client.user_account()).username == "fakeshop"
    assert "OWNER" in (await client.ad_account(fake_pinterest.ad_account_id)).permissions


def test_unknown_fields_and_new_statuses_are_tolerated() -> None:
    page = msgspec.json.decode(
        b'{"items": [{"id": "1", "status": "BRAND_NEW", "is_nca": true, "num_batches": 3}], "extra": 1}',
        type=Page[CustomerList],
    )
    assert (page.items[0].status, page.bookmark) == ("BRAND_NEW", None)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"code": "x"}', b"[]", b"[" * 100_000, b"\xff", b'{"code": 1, "message": "\xff"}']
)
def test_an_error_that_is_not_pinterests_has_code_0(body: bytes) -> None:
    assert error_body(body).code == 0


# errors


async def test_a_wrong_token_is_refused_with_code_2(fake_pinterest: FakePinterest) -> None:
    async with Client(fake_pinterest.settings(access_token=SecretStr("pina_other"))) as client:
        with pytest.raises(PinterestRefused) as caught:
            await client.user_account()
    assert (caught.value.status, caught.value.code) == (401, 2)
    assert caught.value.request_id.isdigit()
    assert not caught.value.retryable
    assert len(fake_pinterest.calls()) == 1


async def test_another_ad_account_is_refused_with_code_29(client: Client, fake_pinterest: FakePinterest) -> None:
    with pytest.raises(PinterestRefused) as caught:
        await client.ad_account("111")
    assert (caught.value.status, caught.value.code) == (403, 29)
    assert len(fake_pinterest.calls()) == 1


async def test_a_name_that_is_not_unicode_is_refused_before_sending(
    client: Client, fake_pinterest: FakePinterest
) -> None:
    with pytest.raises(Refused):
        await lists.create(client, fake_pinterest.ad_account_id, name="\ud800", members=members(1))
    assert fake_pinterest.calls() == []


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = taken.getsockname()[1]
        settings = FakePinterest(port).settings()
        async with Client(settings) as client:
            began = time.monotonic()
            with pytest.raises(PinterestAway, match="cannot be reached") as caught:
                await lists.create(client, "1", name="Carts", members=members(1))
    assert caught.value.retryable
    assert caught.value.__cause__ is not None
    assert 0.05 + 0.1 + 0.2 <= time.monotonic() - began < 5  # the waits between four tries


@asynccontextmanager
async def _answering(answer: bytes, pause_s: float = 0) -> AsyncIterator[FakePinterest]:
    """A server that gives every request the same bytes."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(pause_s)
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield FakePinterest(server.sockets[0].getsockname()[1])


def _http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (_http("200 OK", b"<html>hello"), PinterestAway, "not the one documented"),
        (_http("200 OK", b'{"id": 7}'), PinterestAway, "not the one documented"),
        (_http("200 OK", b'{"id": "\xff"}'), PinterestAway, "not the one documented"),
        (_http("200 OK", b'{"x":' * 50_000), PinterestAway, "not the one documented"),
        (_http("502 Bad Gateway", b"<html>"), PinterestAway, "answered 502"),
        (_http("408 Timeout", b""), PinterestAway, "answered 408"),
        (_http("302 Found", b"", "Location: https://evil.example/"), PinterestRefused, "answered 302"),
        (_http("400 Bad", b'{"code":1,"message":"' + TOKEN.encode() + b'"}'), PinterestRefused, r"\[token\]"),
        (_http("400 Bad", b'{"code":1,"message":"' + b"x" * 9999 + b'"}'), PinterestRefused, "x{500}$"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", PinterestAway, "broke the connection"),
        (b"not HTTP at all\r\n\r\n", PinterestAway, "broke the connection"),
        (b"", PinterestAway, "broke the connection"),
    ],
    ids=str,
)
async def test_strange_answers_are_translated(answer: bytes, kind: type[PinterestError], text: str) -> None:
    async with _answering(answer) as server, Client(server.settings()) as client:
        with pytest.raises(kind, match=text) as caught:
            await lists.create(client, "1", name="Carts", members=members(1))
    assert TOKEN not in str(caught.value)


async def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b'{"id": "1"}'
    async with _answering(_http("200 OK", body)) as server, Client(server.settings()) as client:
        monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", len(body))
        assert (await lists.create(client, "1", name="Carts", members=members(1))).id == "1"
        monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", len(body) - 1)
        with pytest.raises(PinterestAway):
            await lists.create(client, "1", name="Carts", members=members(1))


async def test_no_answer_in_time() -> None:
    async with (
        _answering(_http("200 OK", b"{}"), pause_s=5) as server,
        Client(server.settings(timeout_s=0.1)) as client,
    ):
        with pytest.raises(PinterestAway, match="did not answer in time"):
            await lists.create(client, "1", name="Carts", members=members(1))


# retries


@pytest.mark.parametrize("kind", ["unavailable", "drop_before", "drop_after"])
async def test_changes_of_a_list_are_repeated(client: Client, fake_pinterest: FakePinterest, kind: str) -> None:
    account = fake_pinterest.ad_account_id
    made = await lists.create(client, account, name="Carts", members=members(1))
    fake_pinterest.fault(kind, "customer_lists/update")
    await lists.change(client, account, made.id, "ADD", members(3))
    fake_pinterest.fault(kind, "customer_lists/update")
    await lists.change(client, account, made.id, "REMOVE", members(1))
    assert len(fake_pinterest.calls("customer_lists/update")) == 4
    assert fake_pinterest.members(made.id) == set(members(2, start=1))


async def test_an_applied_but_unanswered_change_counts_twice_but_is_in_once(
    client: Client, fake_pinterest: FakePinterest
) -> None:
    account = fake_pinterest.ad_account_id
    made = await lists.create(client, account, name="Carts", members=members(1))
    fake_pinterest.fault("drop_after", "customer_lists/update")
    changed = await lists.change(client, account, made.id, "ADD", members(2, start=1))
    assert statuses(fake_pinterest, "customer_lists/update") == [0, 200]
    assert changed.num_uploaded_user_records == 5
    assert fake_pinterest.members(made.id) == set(members(3))


@pytest.mark.parametrize(("kind", "applied"), [("unavailable", 0), ("drop_before", 0), ("drop_after", 1)])
async def test_a_creation_is_not_repeated_after_an_unclear_fault(
    client: Client, fake_pinterest: FakePinterest, kind: str, applied: int
) -> None:
    account = fake_pinterest.ad_account_id
    fake_pinterest.fault(kind, "customer_lists/create")
    with pytest.raises(PinterestAway):
        await lists.create(client, account, name="Carts", members=members(1))
    assert len(fake_pinterest.calls("customer_lists/create")) == 1
    assert len(fake_pinterest.lists()) == applied
    assert (await lists.find_by_name(client, account, "Carts") is not None) == bool(applied)


async def test_a_creation_is_repeated_after_429(client: Client, fake_pinterest: FakePinterest) -> None:
    account = fake_pinterest.ad_account_id
    fake_pinterest.fault("rate_limited", "customer_lists/create", retry_after_s=0.2)
    made = await lists.create(client, account, name="Carts", members=members(1))
    assert statuses(fake_pinterest, "customer_lists/create") == [429, 200]
    assert [item["id"] for item in fake_pinterest.lists()] == [made.id]


async def test_tries_are_bounded(client: Client, fake_pinterest: FakePinterest) -> None:
    fake_pinterest.fault("unavailable", "user_account/get", count=client_module.ATTEMPTS)
    with pytest.raises(PinterestAway) as caught:
        await client.user_account()
    assert (caught.value.status, caught.value.code) == (503, 4197)
    assert statuses(fake_pinterest, "user_account/get") == [503] * client_module.ATTEMPTS
    fake_pinterest.fault("unavailable", "user_account/get", count=client_module.ATTEMPTS - 1)
    assert await client.user_account()


async def test_a_slow_answer_is_asked_for_again(fake_pinterest: FakePinterest) -> None:
    fake_pinterest.fault("slow", "user_account/get", ms=1000)
    async with Client(fake_pinterest.settings(timeout_s=0.2)) as client:
        assert await client.user_account()


# pace


async def test_retry_after_is_waited_for_by_every_call(client: Client, fake_pinterest: FakePinterest) -> None:
    fake_pinterest.fault("rate_limited", "user_account/get", retry_after_s=0.8)
    began = time.monotonic()
    limited = asyncio.create_task(client.user_account())
    while not fake_pinterest.calls("user_account/get"):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    await client.ad_account(fake_pinterest.ad_account_id)
    assert time.monotonic() - began >= 0.75
    assert await limited


async def test_a_long_retry_after_is_handed_to_the_caller(client: Client, fake_pinterest: FakePinterest) -> None:
    fake_pinterest.fault("rate_limited", "user_account/get", retry_after_s=client_module.MAX_RETRY_AFTER_S + 1)
    with pytest.raises(RateLimited) as caught:
        await client.user_account()
    assert (caught.value.retry_after_s, caught.value.code) == (client_module.MAX_RETRY_AFTER_S + 1, 8)
    with pytest.raises(RateLimited) as held:  # others do not even ask
        await client.ad_account(fake_pinterest.ad_account_id)
    assert client_module.MAX_RETRY_AFTER_S < held.value.retry_after_s <= client_module.MAX_RETRY_AFTER_S + 1
    assert len(fake_pinterest.calls()) == 1


async def test_429_without_a_time_is_repeated_with_growing_waits(client: Client, fake_pinterest: FakePinterest) -> None:
    fake_pinterest.fault("rate_limited", "user_account/get", retry_after_s=None, count=client_module.ATTEMPTS)
    with pytest.raises(RateLimited) as caught:
        await client.user_account()
    assert caught.value.retry_after_s == client_module.UNSTATED_RETRY_AFTER_S
    assert statuses(fake_pinterest, "user_account/get") == [429] * client_module.ATTEMPTS


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"Retry-After": "Sat, 21 Nov 2026 22:00:30 GMT"}, 30),
        ({"Retry-After": "Sat, 21 Nov 2026 21:00:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "9" * 30}, None),
        ({"x-userendpoint-ratelimit-reset": "12"}, 12),
        ({"x-ratelimit-remaining": "0"}, None),
        ({"Retry-After": "3", "x-ratelimit-reset": "12"}, 3),
        ({}, None),
    ],
)
def test_time_to_wait(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, 1795298400) == expected


async def test_calls_are_spaced() -> None:
    pace = Pace(50)
    times = []
    for _ in range(4):
        await pace.turn()
        times.append(time.monotonic())
    assert all(later - earlier >= 0.0195 for earlier, later in itertools.pairwise(times))


async def test_concurrent_calls_are_spaced_too(fake_pinterest: FakePinterest) -> None:
    async with Client(fake_pinterest.settings(requests_per_s=20)) as client:
        began = time.monotonic()
        await asyncio.gather(*(client.user_account() for _ in range(5)))
    assert time.monotonic() - began >= 4 * 0.05 - 0.002


async def test_the_queue_is_bounded() -> None:
    pace = Pace(100)
    pace.hold(0.3)
    waiting = [asyncio.create_task(pace.turn()) for _ in range(client_module.MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited, match="wait already"):
        await pace.turn()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await pace.turn()


# secrets, logs, counts


async def test_the_token_is_nowhere_to_be_seen(
    client: Client, fake_pinterest: FakePinterest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    account = fake_pinterest.ad_account_id
    for kind in ("rate_limited", "unavailable", "drop_before"):
        fake_pinterest.fault(kind, "customer_lists/list", retry_after_s=0.1)
        await lists.find_by_name(client, account, "none")
    with pytest.raises(PinterestRefused) as caught:
        await client.ad_account("111")
    settings = fake_pinterest.settings()
    texts = [repr(client), str(client), repr(caught.value), repr(settings), str(settings), caplog.text]
    assert len(caplog.records) > 10
    assert all(TOKEN not in text for text in texts)
    assert all(TOKEN not in repr(record.__dict__) for record in caplog.records)


async def test_members_are_not_logged(
    client: Client, fake_pinterest: FakePinterest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fake_pinterest.fault("unavailable", "customer_lists/create")
    with pytest.raises(PinterestAway) as caught:
        await lists.create(client, fake_pinterest.ad_account_id, name="Carts", members=members(2))
    assert all(member not in caplog.text + repr(caught.value) for member in members(2))


async def test_the_request_id_is_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PinterestRefused) as caught:
        await client.ad_account("111")
    assert f"Request id {caught.value.request_id}" in caplog.text
    assert "code 29" in caplog.text


async def test_stdout_stays_empty(
    client: Client, fake_pinterest: FakePinterest, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_pinterest.fault("unavailable", "user_account/get", count=2)
    await client.user_account()
    assert capfd.readouterr().out == ""


async def test_every_try_is_counted(client: Client, fake_pinterest: FakePinterest) -> None:
    def count(status: str) -> float:
        labels = {"operation": "customer_lists/get", "status": status}
        return metrics.REGISTRY.get_sample_value("pinstream_pinterest_calls_total", labels) or 0

    before = {status: count(status) for status in ("200", "404", "503", "network")}
    account = fake_pinterest.ad_account_id
    made = await lists.create(client, account, name="Carts", members=members(1))
    fake_pinterest.fault("unavailable", "customer_lists/get")
    fake_pinterest.fault("drop_before", "customer_lists/get")
    await lists.get(client, account, made.id)
    with pytest.raises(PinterestRefused):
        await lists.get(client, account, "1")
    assert all(count(status) == before[status] + 1 for status in before)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"access_token": SecretStr("")}, "access_token is empty"),
        ({"access_token": SecretStr("pina_x\r\nX: y")}, "access_token"),
        ({"access_token": SecretStr("pina_é")}, "access_token"),
        ({"base_url": "http://api.pinterest.com/v5"}, "https"),
        ({"base_url": "ftp://api.pinterest.com/v5"}, "https"),
        ({"base_url": "api.pinterest.com/v5"}, "https"),
        ({"base_url": "https://[::1"}, "base_url"),
    ],
)
def test_settings_that_cannot_work(fake_pinterest: FakePinterest, changes: dict[str, object], text: str) -> None:
    with pytest.raises(Misconfigured, match=text) as caught:
        Client(fake_pinterest.settings(**changes))
    assert "pina_" not in str(caught.value)


@pytest.mark.parametrize("base_url", ["https://api.pinterest.com/v5", "http://localhost:1/v5/", "http://[::1]:1/v5"])
async def test_settings_that_can_work(fake_pinterest: FakePinterest, base_url: str) -> None:
    async with Client(fake_pinterest.settings(base_url=base_url)) as client:
        assert base_url in repr(client)
