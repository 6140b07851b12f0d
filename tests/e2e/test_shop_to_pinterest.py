"""From a click in a real browser to a member of a list at Pinterest, through every process there is."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import clickhouse_connect
import httpx
import pytest
from playwright.async_api import Page, expect

from pinstream.audiences import desk, templates
from pinstream.clock import now_ms
from pinstream.demo import stack as demo
from pinstream.demo.shoppers import Ledger, certain_people, expected_cart_abandoners, shop
from pinstream.demo.stack import TAG_ID, Stack, stack
from pinstream.errors import PinstreamError
from pinstream.warehouse.client import Warehouse
from tests.browser_fixtures import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stack]:
    """Warehouse, collect, load, push, the shop and the fake Pinterest, each as it runs in the demo."""
    for name in [name for name in os.environ if name.startswith("PINSTREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PINSTREAM_CONFIG", "")  # put back what the stack sets
    monkeypatch.setattr(demo, "PORTS", dict.fromkeys(demo.PORTS, 0))  # nobody else's, however many tests run
    lines: list[str] = []
    try:
        async with stack(tmp_path / "data", lambda name, line: lines.append(f"{name}: {line}")) as everything:
            yield everything
    finally:
        print("\n".join(lines))


async def until(holds: Callable[[], object], what: str, timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not await holds():  # type: ignore[misc]
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.2)


async def fill_cart(page: Page, running: Stack, email: str, *, answer: str | None) -> None:
    """Look at a product, put it into the cart, leave the e-mail, go."""
    await page.goto(running.shop_url)
    if answer:
        await page.click(f"text={answer}")
    await page.goto(f"{running.shop_url}/p/mug")
    await page.click("text=Add to cart")
    await page.wait_for_url("**/cart")
    await page.fill("#newsletter [name=email]", email)
    await page.click("text=Sign up")
    await page.wait_for_url("**/?subscribed=1**")
    await page.goto("about:blank")


async def visitors_of(running: Stack, email: str) -> int:
    """How many visitors are known by an address.

    `events` does not always say: what the tag sends again, as it heard no answer, carries no address and takes the
    place of what did.
    """
    rows = await running.warehouse.select(
        "SELECT count() AS n FROM identity FINAL WHERE id_value = unhex({em:String})", {"em": sha256(email)}
    )
    return int(rows[0]["n"])


async def events_of(running: Stack, email: str) -> int:
    rows = await running.warehouse.select(
        "SELECT count() AS n FROM events WHERE em_sha256 = unhex({em:String})", {"em": sha256(email)}
    )
    return int(rows[0]["n"])


async def test_who_fills_a_cart_and_leaves_becomes_a_member_and_who_says_no_does_not(
    running: Stack, open_page: OpenPage
) -> None:
    yes, no, silent, gpc, buyer = (f"{name}@example.com" for name in ("yes", "no", "silent", "gpc", "buyer"))
    willing = await open_page()
    await fill_cart(willing, running, yes, answer="Accept")
    await fill_cart(await open_page(), running, no, answer="Refuse")
    await fill_cart(await open_page(), running, silent, answer=None)
    await fill_cart(await open_page(gpc=True), running, gpc, answer=None)
    bought = await open_page()
    await fill_cart(bought, running, buyer, answer="Accept")
    await bought.goto(f"{running.shop_url}/checkout")
    await bought.fill("main [name=email]", buyer)
    await bought.click("text=Place order")
    await bought.wait_for_url("**/thanks")
    await bought.goto("about:blank")

    async def ordered() -> bool:
        rows = await running.warehouse.select("SELECT count() AS n FROM events WHERE event_name = 'checkout'")
        return bool(rows[0]["n"])

    async def is_member() -> bool:
        return sha256(yes) in (await running.list_members())[1]

    await until(ordered, "the order is in ClickHouse")
    await until(is_member, "who consented is in Pinterest's list")
    assert await running.audience_members() == {sha256(yes)}
    assert await visitors_of(running, yes) == 1
    for email in (no, silent, gpc):
        assert await visitors_of(running, email) == await events_of(running, email) == 0

    await willing.goto(running.shop_url)
    await willing.click("text=Privacy choices")
    await willing.click("text=Refuse")
    await willing.goto("about:blank")

    async def is_gone() -> bool:
        return sha256(yes) not in (await running.list_members())[1]

    await until(is_gone, "who withdrew is out of Pinterest's list")
    assert await running.audience_members() == set()


async def test_the_shop_says_what_was_saved_on_pinterest_and_analysts_see_it(
    running: Stack, open_page: OpenPage
) -> None:
    await shop(running.door, seconds=3, events_per_s=120, seed=3, ledger=Ledger())
    url = f"{running.collect_url}/v1/popular?site={TAG_ID}&product=mug"
    async with httpx.AsyncClient(trust_env=False) as http:

        async def told() -> bool:
            found: object = (await http.get(url)).json()["products"]
            return found == {"mug": {"savers": "100+", "at_least": 100}}

        await until(told, "push has copied, and collect knows, with their own intervals")
    page = await open_page()
    await page.goto(f"{running.shop_url}/p/mug")
    await expect(page.locator(".product .saved")).to_have_text("Saved by 100+ people on Pinterest")
    await expect(page.locator(".cards .saved").filter(has_text="50+ saves on Pinterest")).to_have_count(2)

    settings = running.settings.warehouse.model_copy(update={"database": "analytics"})
    analytics = Warehouse.open(settings, password="demo")
    found = {number: await analytics.select(sql) for number, sql in about_pins().items()}
    await analytics.aclose()
    assert all(found.values()), found
    assert {row["from_pinterest"] for row in found[9]} == {True, False}
    assert len(found[17]) >= 6
    assert {row["action"] for row in found[20]} == {"click"}

    asked = await desk.draft(running.store, running.site.tag_id, "Engaged", templates.engaged(), {}, now_ms=now_ms())
    assert (await desk.export(running.warehouse, asked))[0]


def about_pins() -> dict[int, str]:
    """The queries of docs/queries.md that ask for Pins."""
    text = (Path(__file__).parents[2] / "docs" / "queries.md").read_text()
    queries = re.findall(r"^## (\d+)\..*?```sql\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    return {int(number): sql for number, sql in queries if int(number) in (9, 10, 17, 18, 19, 20)}


async def test_nothing_is_lost_when_every_process_is_killed_under_load(running: Stack) -> None:
    ledger = Ledger()
    shopping = asyncio.create_task(
        shop(running.door._replace(key=""), seconds=25, events_per_s=60, seed=3, ledger=ledger)
    )
    for name in ("load", "collect", "warehouse", "push", "load", "warehouse"):
        await asyncio.sleep(3.5)
        if pid := running.supervisor.pids.get(name):
            os.kill(pid, signal.SIGKILL)
    await shopping
    durable = ledger.durable
    assert len(durable) > 300

    async def arrived() -> bool:
        try:
            rows = await running.warehouse.select("SELECT event_id FROM events")
        except PinstreamError:
            return False
        return durable <= {row["event_id"] for row in rows}

    await until(arrived, "everything answered durable is in ClickHouse", 60)
    rows = await running.warehouse.select("SELECT event_id FROM events FINAL")
    ids = [row["event_id"] for row in rows]
    assert durable <= set(ids)
    assert len(ids) == len(set(ids))
    [positions] = await running.warehouse.select("SELECT uniqExact(k_partition, k_offset) AS n FROM events")
    sent_again = sum(entry.tries > 1 for entry in ledger.entries.values())  # two records, which may be one row

    async def counted() -> bool:
        [minutes] = await running.warehouse.select("SELECT sum(n) AS n FROM event_minute")
        return 0 <= int(minutes["n"]) - int(positions["n"]) <= sent_again

    await until(counted, "the views, which come behind the table, have counted each record once")

    async def equal() -> bool:
        return (await running.list_members())[1] == await running.audience_members()

    await until(equal, "Pinterest's list equals the audience", 60)
    known = certain_people(ledger)
    assert await running.audience_members() & known == expected_cart_abandoners(ledger) & known


async def test_a_plain_clickhouse_client_gets_an_answer_while_everything_runs(running: Stack) -> None:
    def ask() -> int:
        port = int(running.settings.warehouse.url.rpartition(":")[2])
        client = clickhouse_connect.get_client(
            host="127.0.0.1", port=port, username="default", password="demo", database="pinstream"
        )
        try:
            return int(client.query("SELECT count() FROM events").result_rows[0][0])
        finally:
            client.close()

    assert await asyncio.to_thread(ask) >= 0
