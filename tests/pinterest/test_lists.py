"""Customer lists against the fake, over HTTP."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pinstream.errors import PinterestRefused, Refused
from pinstream.pinterest import lists
from pinstream.pinterest.client import Client
from tests.fake_pinterest import FakePinterest
from tests.pinterest.conftest import hashed, members


async def test_a_list_starts_with_its_first_members(client: Client, fake_pinterest: FakePinterest) -> None:
    made = await lists.create(client, fake_pinterest.ad_account_id, name="Carts", members=members(3))
    assert made.id.isdigit()
    assert (made.name, made.ad_account_id, made.status) == ("Carts", fake_pinterest.ad_account_id, "PROCESSING")
    assert fake_pinterest.members(made.id) == set(members(3))


async def test_membership_is_a_set_and_counters_count_attempts(client: Client, fake_pinterest: FakePinterest) -> None:
    account = fake_pinterest.ad_account_id
    made = await lists.create(client, account, name="Carts", members=members(3))
    await lists.change(client, account, made.id, "ADD", members(4))
    await lists.change(client, account, made.id, "REMOVE", members(2))
    await lists.change(client, account, made.id, "REMOVE", members(2))
    assert fake_pinterest.members(made.id) == set(members(2, start=2))
    seen = await lists.get(client, account, made.id)
    assert (seen.num_batches, seen.num_uploaded_user_records, seen.num_removed_user_records) == (4, 7, 4)


async def test_status_follows_time_and_size(client: Client, fake_pinterest: FakePinterest) -> None:
    account = fake_pinterest.ad_account_id
    made = await lists.create(client, account, name="Carts", members=members(99))
    fake_pinterest.advance(11)
    assert (await lists.get(client, account, made.id)).status == "TOO_SMALL"
    assert (await lists.change(client, account, made.id, "ADD", members(1, start=99))).status == "PROCESSING"
    fake_pinterest.advance(11)
    assert (await lists.get(client, account, made.id)).status == "READY"


async def test_get_of_no_list_is_refused_with_404(client: Client, fake_pinterest: FakePinterest) -> None:
    with pytest.raises(PinterestRefused) as caught:
        await lists.get(client, fake_pinterest.ad_account_id, "77")
    assert caught.value.status == 404


async def test_find_by_name_turns_pages_and_takes_the_newest(
    client: Client, fake_pinterest: FakePinterest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "PAGE_SIZE", 2)
    account = fake_pinterest.ad_account_id
    made = [await lists.create(client, account, name=name, members=members(1)) for name in "abcbde"]
    assert await lists.find_by_name(client, account, "a") == made[0]
    assert await lists.find_by_name(client, account, "b") == made[3]
    assert await lists.find_by_name(client, account, "B") is None
    assert len(fake_pinterest.calls("customer_lists/list")) == 3 + 2 + 3


async def test_a_search_has_an_end(
    client: Client, fake_pinterest: FakePinterest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "PAGE_SIZE", 1)
    monkeypatch.setattr(lists, "MAX_PAGES", 3)
    account = fake_pinterest.ad_account_id
    for name in "abcd":
        await lists.create(client, account, name=name, members=members(1))
    assert await lists.find_by_name(client, account, "b")
    with pytest.raises(PinterestRefused, match="more than 3 customer lists"):
        await lists.find_by_name(client, account, "a")


@pytest.mark.parametrize(
    "bad",
    [
        "ann@shop.example",
        hashed("ann@shop.example").upper(),
        hashed("ann@shop.example")[:-1],
        hashed("ann@shop.example") + "0",
        hashed("ann@shop.example") + "\n",
        hashed("ann@shop.example")[:-1] + "g",
        f"{hashed('a')},{hashed('b')}",
        "",
        "\u0660" * 64,
    ],
)
async def test_only_sha256_leaves(client: Client, fake_pinterest: FakePinterest, bad: str) -> None:
    account = fake_pinterest.ad_account_id
    for attempt in (
        lists.create(client, account, name="Carts", members=[hashed("b"), bad]),
        lists.change(client, account, "1", "ADD", [hashed("b"), bad]),
        lists.change(client, account, "1", "REMOVE", [hashed("b"), bad]),
    ):
        with pytest.raises(Refused) as caught:
            await attempt
        assert (caught.value.reason, caught.value.field) == ("bad_hash", "members[1]")
        assert not bad or bad not in str(caught.value)
    assert fake_pinterest.calls() == []


async def test_members_a_call_are_bounded(client: Client, fake_pinterest: FakePinterest) -> None:
    account = fake_pinterest.ad_account_id
    made = await lists.create(client, account, name="Carts", members=members(lists.MAX_MEMBERS))
    assert len(fake_pinterest.members(made.id)) == lists.MAX_MEMBERS
    for count, reason in ((lists.MAX_MEMBERS + 1, "too_many"), (0, "missing_field")):
        with pytest.raises(Refused) as caught:
            await lists.change(client, account, made.id, "ADD", members(count))
        assert caught.value.reason == reason
    assert len(fake_pinterest.calls()) == 1


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    name=st.text(min_size=1, max_size=200),
    first=st.sets(st.integers(0, 300), min_size=1, max_size=50),
    changes=st.lists(
        st.tuples(st.sampled_from(["ADD", "REMOVE"]), st.sets(st.integers(0, 300), min_size=1, max_size=50)), max_size=4
    ),
)
async def test_any_name_and_any_changes_keep_to_the_description(
    client: Client, fake_pinterest: FakePinterest, name: str, first: set[int], changes: list[tuple[str, set[int]]]
) -> None:
    account = fake_pinterest.ad_account_id
    if any("\ud800" <= character <= "\udfff" for character in name):
        with pytest.raises(Refused):
            await lists.create(client, account, name=name, members=[hashed("a")])
        return
    made = await lists.create(client, account, name=name, members=[hashed(str(n)) for n in first])
    expected = set(first)
    for operation, numbers in changes:
        expected = expected | numbers if operation == "ADD" else expected - numbers
        await lists.change(client, account, made.id, operation, [hashed(str(n)) for n in numbers])  # type: ignore[arg-type]
    assert made.name == name
    assert fake_pinterest.members(made.id) == {hashed(str(n)) for n in expected}
