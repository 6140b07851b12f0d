"""Everything on one machine: the roles on embedded engines, the shop and the fake Pinterest.

The processes read a `pinstream.toml` that is written for them, so any other `pinstream` command joins in with
`PINSTREAM_CONFIG=<that file>`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import httpx
from msgspec import Struct, structs

from pinstream import roles, serving
from pinstream import settings as settings_module
from pinstream.audiences import desk, templates
from pinstream.audiences.rule import to_json
from pinstream.clock import now_ms
from pinstream.demo.shop import app as shop
from pinstream.demo.shoppers import Door
from pinstream.errors import PinstreamError, SetupFault
from pinstream.pinterest.fake import AD_ACCOUNT_ID
from pinstream.push import popular
from pinstream.settings import PREFIX, Settings
from pinstream.state.snapshot import Site
from pinstream.state.store import Store
from pinstream.supervisor import Emit, Program, Supervisor, supervised
from pinstream.warehouse.client import Warehouse

TAG_ID: Final = "demo-shop"
AUDIENCE: Final = "cart abandoned, 7 days"
KEY_LABEL: Final = "the demo's shoppers"
REFRESH_S: Final = 5.0
PORTS: Final = {"shop": 8000, "collect": 8080, "console": 8090, "pinterest": 8091, "clickhouse": 8123, "ops": 9080}
"""Where things listen if the port is free; else any free one is taken."""

CONFIG: Final = """\
# Written by `pinstream demo`. Use it with other commands: PINSTREAM_CONFIG=<this file> pinstream sql "SELECT 1"
data_dir = "{data_dir}"

[collect]
port = {collect}
ops_port = {ops}
snapshot_refresh_s = 2

[warehouse]
url = "http://127.0.0.1:{clickhouse}"
password = "demo"

[load]
ops_port = {load_ops}

[push]
interval_s = 3
ops_port = {push_ops}

[console]
port = {console}
ops_port = {console_ops}

[pinterest]
base_url = "http://127.0.0.1:{pinterest}/v5"
ad_account_id = "{ad_account_id}"
access_token = "pina_DEMO"
requests_per_s = 20
"""


class Stack(Struct, frozen=True):
    """What runs, and where."""

    settings: Settings
    supervisor: Supervisor
    warehouse: Warehouse
    store: Store
    site: Site
    audience_id: int
    key: str
    """Of a server of the shop, which tells what people do with Pins."""
    config_file: Path
    shop_url: str
    collect_url: str
    pinterest_url: str
    metrics_url: str

    @property
    def door(self) -> Door:
        """Where shoppers come in."""
        return Door(self.collect_url, TAG_ID, self.shop_url, self.key)

    @property
    def events_url(self) -> str:
        """Where events are sent."""
        return f"{self.collect_url}/p/i"

    async def list_members(self) -> tuple[str, set[str]]:
        """The audience's list at the fake Pinterest: (its id, its members); ("", nobody) while there is none."""
        link = next(link for link in self.store.connections() if link.audience_id == self.audience_id)
        if not link.customer_list_id:
            return "", set()
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(f"{self.pinterest_url}/_fake/lists/{link.customer_list_id}/members")
        return link.customer_list_id, set(answer.raise_for_status().json()["members"])

    async def audience_members(self) -> set[str]:
        """Who is in the audience now, as ClickHouse sees it: SHA-256 hex of their e-mails."""
        asked = await desk.subject(self.store, self.audience_id, self.settings.audiences.rates, now_ms=now_ms())
        _, members = await desk.export(self.warehouse, asked)
        return set(members)


@asynccontextmanager
async def stack(data_dir: Path, emit: Emit) -> AsyncIterator[Stack]:
    """Run everything while the block runs. `emit` gets the processes' log lines.

    Raises:
        SetupFault: a process could not start; the message and its lines say why.
    """
    ports = {name: _free(port) for name, port in PORTS.items()}
    ports |= {f"{role}_ops": _free(0) for role in ("load", "push", "console")}
    settings, config_file = _configure(data_dir, ports)
    shop_url, collect_url, pinterest_url = (
        f"http://127.0.0.1:{ports[name]}" for name in ("shop", "collect", "pinterest")
    )
    async with roles.open_store(settings) as store, roles.open_warehouse(settings) as warehouse:
        site, audience_id = await asyncio.to_thread(_seed, store, shop_url)
        key = await asyncio.to_thread(_new_key, store, site)
        programs = [_fake_pinterest(ports["pinterest"], data_dir), *roles.programs(settings)]
        environment = {"PINSTREAM_CONFIG": str(config_file)}
        with_config = [structs.replace(each, env=environment) for each in programs]
        async with (
            supervised(with_config, emit) as supervisor,
            shop.serve("127.0.0.1", ports["shop"], collect_url, TAG_ID),
            _refreshing(warehouse),
        ):
            yield Stack(
                settings=settings,
                supervisor=supervisor,
                warehouse=warehouse,
                store=store,
                site=site,
                audience_id=audience_id,
                key=key,
                config_file=config_file,
                shop_url=shop_url,
                collect_url=collect_url,
                pinterest_url=pinterest_url,
                metrics_url=f"http://127.0.0.1:{ports['ops']}/metrics",
            )


@asynccontextmanager
async def _refreshing(warehouse: Warehouse) -> AsyncIterator[None]:
    """Let ClickHouse make what is popular every REFRESH_S while the block runs: nobody watches a demo for an hour."""

    async def refresh() -> None:
        while True:
            with suppress(PinstreamError):
                await popular.refresh(warehouse)
            await asyncio.sleep(REFRESH_S)

    task = asyncio.create_task(refresh())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _free(port: int) -> int:
    """`port` if nothing listens there, else any free one."""
    try:
        listener = serving.bind("127.0.0.1", port)
    except SetupFault:
        listener = serving.bind("127.0.0.1", 0)
    with listener:
        return int(listener.getsockname()[1])


def _configure(data_dir: Path, ports: dict[str, int]) -> tuple[Settings, Path]:
    """Write the settings file and read it; settings of this machine's environment do not reach the demo."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        if name != f"{PREFIX}CHROMIUM":
            del os.environ[name]
    config_file = data_dir.absolute() / "pinstream.toml"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        config_file.write_text(CONFIG.format(data_dir=data_dir.absolute(), ad_account_id=AD_ACCOUNT_ID, **ports))
    except OSError as exc:
        raise SetupFault(f"Cannot write in {data_dir}: {exc.strerror}. Give another --data-dir.") from exc
    os.environ[f"{PREFIX}CONFIG"] = str(config_file)
    return settings_module.load(), config_file


def _seed(store: Store, shop_url: str) -> tuple[Site, int]:
    """The demo's site and its audience, connected to the fake Pinterest; found again in a kept folder."""
    origins = (shop_url, shop_url.replace("127.0.0.1", "localhost"))
    known = {site.tag_id for site in store.sites()}
    if TAG_ID in known:
        site = store.set_site(structs.replace(store.site(TAG_ID), origins=origins))
    else:
        new = Site(id=0, tag_id=TAG_ID, name="Demo shop", origins=origins, currency="EUR", phone_region="DE")
        site = store.add_site(new, now_ms=now_ms())
    for audience in store.audiences(site_id=site.id):
        if audience.name == AUDIENCE:
            return site, audience.id
    rule = templates.cart_abandoned(within_days=7, quiet_for_min=0)
    audience = store.add_audience(site_id=site.id, name=AUDIENCE, rule=to_json(rule), now_ms=now_ms())
    store.connect(audience_id=audience.id, ad_account_id=AD_ACCOUNT_ID, now_ms=now_ms())
    return site, audience.id


def _new_key(store: Store, site: Site) -> str:
    """A key for this run, in the place of the one that an earlier run in a kept folder had."""
    for known in store.api_keys():
        if known.label == KEY_LABEL:
            store.revoke_key(known.prefix)
    return store.create_key(site_id=site.id, label=KEY_LABEL, now_ms=now_ms())


def _fake_pinterest(port: int, data_dir: Path) -> Program:
    state = str(data_dir.absolute() / "fake-pinterest.db")
    argv = (sys.executable, "-m", "pinstream.pinterest.fake", "--port", str(port), "--state", state)
    return Program("pinterest", argv, ready_url=f"http://127.0.0.1:{port}/_fake/lists")
