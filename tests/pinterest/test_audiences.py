"""Audiences built on customer lists, against the fake, over HTTP."""

from __future__ import annotations

import pytest

from pinstream.errors import PinterestRefused
from pinstream.pinterest import audiences, lists
from pinstream.pinterest.client import Client
from tests.fake_pinterest import FakePinterest
from tests.pinterest.conftest import members


async def test_size_and_status_follow_the_list(client: Client, fake_pinterest: FakePinterest) -> None:
    account = fake_pinterest.ad_account_id
    made = await lists.create(client, account, name="Carts", members=members(100))
    audience = await audiences.create_customer_list_audience(
        client, account, name="Carts", customer_list_id=made.id, description="left with a full cart"
    )
    assert audience.rule is not None
    assert (audience.rule.customer_list_id, audience.audience_type) == (made.id, "CUSTOMER_LIST")
    assert (audience.size, audience.status, audience.description) == (None, "INITIALIZING", "left with a full cart")
    fake_pinterest.advance(11)
    audience = await audiences.get(client, account, audience.id)
    assert (audience.size, audience.status) == (100, "READY")
    await lists.change(client, account, made.id, "REMOVE", members(1))
    audience = await audiences.get(client, account, audience.id)
    assert (audience.size, audience.status) == (100, "READY")  # until the change is processed
    fake_pinterest.advance(11)
    audience = await audiences.get(client, account, audience.id)
    assert (audience.size, audience.status) == (99, "TOO_SMALL")


async def test_an_audience_needs_a_list_that_exists(client: Client, fake_pinterest: FakePinterest) -> None:
    with pytest.raises(PinterestRefused, match="no such customer list") as caught:
        await audiences.create_customer_list_audience(
            client, fake_pinterest.ad_account_id, name="Carts", customer_list_id="12"
        )
    assert caught.value.status == 400


async def test_find_by_list_and_by_name_turn_pages(
    client: Client, fake_pinterest: FakePinterest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiences, "PAGE_SIZE", 1)
    account = fake_pinterest.ad_account_id
    made = [await lists.create(client, account, name=name, members=members(1)) for name in "abcd"]
    built = [
        await audiences.create_customer_list_audience(client, account, name=item.name, customer_list_id=item.id)
        for item in made[:3]
    ]
    assert await audiences.find_by_list(client, account, made[0].id) == built[0]
    assert await audiences.find_by_list(client, account, made[3].id) is None
    assert await audiences.find_by_name(client, account, "b") == built[1]
    assert await audiences.find_by_name(client, account, "d") is None


async def test_a_search_has_an_end(
    client: Client, fake_pinterest: FakePinterest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audiences, "PAGE_SIZE", 1)
    monkeypatch.setattr(audiences, "MAX_PAGES", 1)
    account = fake_pinterest.ad_account_id
    made = await lists.create(client, account, name="Carts", members=members(1))
    for name in "ab":
        await audiences.create_customer_list_audience(client, account, name=name, customer_list_id=made.id)
    assert await audiences.find_by_name(client, account, "b")
    with pytest.raises(PinterestRefused, match="audiences"):
        await audiences.find_by_name(client, account, "a")


async def test_remove_takes_the_audience_and_leaves_the_list(client: Client, fake_pinterest: FakePinterest) -> None:
    account = fake_pinterest.ad_account_id
    made = await lists.create(client, account, name="Carts", members=members(2))
    audience = await audiences.create_customer_list_audience(client, account, name="Carts", customer_list_id=made.id)
    fake_pinterest.fault("drop_after", "audiences/update")
    await audiences.remove(client, account, audience.id)
    await audiences.remove(client, account, audience.id)
    assert [call["status"] for call in fake_pinterest.calls("audiences/update")] == [0, 404, 404]
    assert fake_pinterest.audiences() == []
    assert fake_pinterest.members(made.id) == set(members(2))
    with pytest.raises(PinterestRefused) as caught:
        await audiences.get(client, account, audience.id)
    assert caught.value.status == 404


async def test_remove_reports_other_refusals(client: Client) -> None:
    with pytest.raises(PinterestRefused) as caught:
        await audiences.remove(client, "111", "1")
    assert (caught.value.status, caught.value.code) == (403, 29)
