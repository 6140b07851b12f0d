"""The command line as a person or a program uses it: real processes, exit codes, sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import structs
from typer.testing import CliRunner

from pinstream import cli, serving
from pinstream.commands.audiences import run_told
from pinstream.state.runs import Run as RunRecord
from pinstream.warehouse.client import Warehouse
from tests.audiences.people import Seen, hashed, load
from tests.warehouse_server import PASSWORD, free_port

pytestmark = pytest.mark.slow  # each test starts processes

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PINSTREAM_")}

    def pinstream(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pinstream", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env=clean | {"PINSTREAM_DATA_DIR": str(tmp_path / "data")} | environment,
        )

    return pinstream


def said(done: subprocess.CompletedProcess[str]) -> object:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sites_and_keys(run: Run) -> None:
    added = said(
        run("sites", "add", "--tag-id", "shop", "--origin", "https://a.example", "--currency", "EUR", "--json")
    )
    assert isinstance(added, list)
    assert added[0]["origins"] == ["https://a.example"]
    more = ("--add-origin", "https://b.example", "--add-origin", "https://c.example")
    assert run("sites", "set", "shop", *more, "--remove-origin", "https://a.example").returncode == 0
    assert run("sites", "set", "shop", "--explicit-yes-overrides-gpc", "--currency", "SEK").returncode == 0
    listed = said(run("sites", "list", "--json"))
    assert isinstance(listed, list)
    assert listed[0]["origins"] == ["https://b.example", "https://c.example"]
    assert (listed[0]["currency"], listed[0]["explicit_yes_overrides_gpc"]) == ("SEK", True)
    refused = run("sites", "set", "shop", "--remove-origin", "https://z.example")
    assert refused.returncode == 2
    assert "not on the list" in refused.stderr

    made = said(run("keys", "create", "--site", "shop", "--label", "erp", "--json"))
    assert isinstance(made, dict)
    assert made["key"].startswith("psk_")
    keys = run("keys", "list", "--json")
    assert made["key"] not in keys.stdout
    shown = said(keys)
    assert isinstance(shown, list)
    assert run("keys", "revoke", shown[0]["prefix"]).returncode == 0
    assert said(run("keys", "list", "--json")) == []


def test_a_snippet_is_what_a_page_takes(run: Run) -> None:
    run("sites", "add", "--tag-id", "shop", "--origin", "https://a.example")
    done = run("snippet", "--site", "shop", "--url", "https://t.a.example", "--json")
    made = said(done)
    assert isinstance(made, dict)
    assert done.stderr == f"Note: {made['notes'][0]}\n"
    whole = run("snippet", "--site", "shop", "--url", "https://t.a.example").stdout
    for part in (made["text"], made["integrity"], made["pinned_url"], "connect-src https://t.a.example"):
        assert part in whole
    assert run("snippet", "--site", "shop", "--url", "https://t.a.example", "--text").stdout == made["text"]
    local = run("snippet", "--site", "shop", "--platform", "html-csp", PINSTREAM_COLLECT__SCRIPT_PATH="/s/x.js")
    assert 'src="http://127.0.0.1:8080/s/x.js"' in local.stdout
    assert "--url" in local.stderr


def test_a_new_state_database_says_where_it_is(run: Run, tmp_path: Path) -> None:
    first = run("sites", "list")
    assert first.stderr == f"no pinstream.toml here; data in {tmp_path / 'data'}\n"
    assert run("sites", "list").stderr == ""


def test_audiences(run: Run) -> None:
    run("sites", "add", "--tag-id", "shop", "--origin", "*")
    assert (
        run("audiences", "add", "--site", "shop", "--ad-account", "549755885175", "--set", "within_days=3").returncode
        == 0
    )
    listed = said(run("audiences", "list", "--json"))
    assert isinstance(listed, list)
    assert (listed[0]["name"], listed[0]["connection"], listed[0]["size"]) == ("cart_abandoned", "new", None)


def test_an_audience_is_saved_connected_changed_and_removed(run: Run) -> None:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("audiences", *arguments, PINSTREAM_PINTEREST__AD_ACCOUNT_ID="549755885175")

    run("sites", "add", "--tag-id", "shop", "--origin", "*")
    assert "`pinstream audiences connect 1`" in ask("add", "--site", "shop", "--name", "Draft", "--draft").stderr
    live = ask("add", "--site", "shop", "--name", "Live", "--template", "win_back").stderr
    assert "connected to ad account 549755885175" in live and "2 s" in live
    [changed] = json.loads(ask("set", "Draft", "--name", "Ours", "--disable", "--json").stdout)
    assert (changed["name"], changed["enabled"]) == ("Ours", False)
    rows = json.loads(ask("list", "--json").stdout)
    assert [(each["connection"], each["detail"]) for each in rows] == [
        ("-", "Not connected: `pinstream audiences connect 1`."),
        ("new", "Waits for its first sync by push."),
    ]
    assert "--disable" in ask("remove", "Live").stderr
    assert ask("remove", "Ours").returncode == 0
    [link] = json.loads(ask("list", "--json").stdout)
    assert link["name"] == "Live"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("add", "--site", "shop", "--ad-account", ""), "--draft"),
        (("add", "--site", "shop", "--template", "win_back", "--rule", "own.toml"), "no place beside it"),
        (("add", "--site", "shop", "--rule", "own.toml", "--set", "within_days=3"), "no place beside it"),
        (("set", "1", "--set", "within_days=3"), "--template"),
        (("preview",), "Name an audience"),
        (("preview", "1", "--template", "win_back"), "Name an audience"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: tuple[str, ...], sentence: str) -> None:
    done = CliRunner().invoke(cli.app, ["audiences", *arguments])
    assert done.exit_code == 2
    assert sentence in " ".join(done.output.replace("│", " ").split())


def test_a_sync_is_told_as_before_and_after() -> None:
    counts = {"desired": 12, "members": 10, "adds": 3, "removes": 1, "held": 0}
    done = RunRecord(id=1, connection_id=1, status="done", started_ms=1000, finished_ms=61_000, detail="", **counts)
    told = run_told(done)
    assert (told["before"], told["after"], told["adds"]) == (10, 12, 3)
    assert (told["started_at"], told["finished_at"]) == ("1970-01-01T00:00:01+00:00", "1970-01-01T00:01:01+00:00")
    assert "after" not in run_told(structs.replace(done, status="held"))


def test_an_ad_account_that_is_none_saves_nothing(run: Run) -> None:
    run("sites", "add", "--tag-id", "shop", "--origin", "*")
    assert "18 digits" in run("audiences", "add", "--site", "shop", "--ad-account", "mine").stderr
    assert said(run("audiences", "list", "--json")) == []


async def test_what_can_be_asked_about_an_audience(run: Run, warehouse: Warehouse, tmp_path: Path) -> None:
    environment = {
        "PINSTREAM_WAREHOUSE__URL": warehouse.settings.url,
        "PINSTREAM_WAREHOUSE__DATABASE": warehouse.database,
        "PINSTREAM_WAREHOUSE__PASSWORD": PASSWORD,
    }

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("audiences", *arguments, **environment)

    templates = said(run("audiences", "templates", "--language", "fr", "--json"))
    assert isinstance(templates, list)
    assert {"key": "win_back", "name": "Reconquête", "set": {"idle_days": 90}}.items() <= templates[1].items()
    site = said(run("sites", "add", "--tag-id", "shop", "--origin", "*", "--json"))
    assert isinstance(site, list)
    people = [
        Seen(5, "add_to_cart", -100_000 + 600, em="ada@shop.example"),
        Seen(6, "checkout", 9, em="bob@shop.example"),
    ]
    await load(warehouse, site[0]["id"], people)
    assert ask("add", "--site", "shop", "--set", "quiet_for_min=0").returncode == 0
    (tmp_path / "seen.toml").write_text('level = "visitor"\n[[all]]\ntype = "last_seen"\nwithin_days = 9\n')
    assert ask("add", "--site", "shop", "--rule", "seen.toml", "--ad-account", "1").returncode == 0

    found = said(ask("preview", "1", "--json"))
    assert isinstance(found, dict)
    assert (found["size"], found["visitors"], found["reads_events"]) == (1, 1, False)
    spoken = ask("preview", "1").stdout
    assert spoken.startswith("en  People who began to check out or")
    assert "\n    1 person with a known e-mail address and consent.\nfr  Les personnes qui" in spoken
    assert "\n    1 personne dont l'adresse e-mail est connue" in spoken
    assert said(ask("preview", "--site", "shop", "--set", "quiet_for_min=0", "--json")) == found | {"id": 0}

    why = ask("explain", "1", "--person", "Ada@shop.example ").stdout
    assert why.startswith(
        "In. Own devices: 1.\n  yes: began to check out or put something in the cart in the last 7 days"
    )
    out = ask("explain", "1", "--person", "bob@shop.example", "--language", "fr").stdout
    assert out.startswith("Pas dans l'audience.")
    assert ask("export", "1").stdout == f"{hashed('ada@shop.example')}\n"
    assert said(ask("export", "2", "--out", "all.csv", "--json")) == {"audience": "2", "lines": 2, "file": "all.csv"}
    assert (tmp_path / "all.csv").read_text() == "5\n6\n"
    past = {
        "site_id": site[0]["id"],
        "audience_id": 1,
        "run_id": 7,
        "status": "held",
        "updated_at": "1795291391000",
        "fingerprint_members": 40,
        "entered": 3,
        "left": 2,
        "held": 30,
        "error": "30 wait.",
    }
    older = past | {"run_id": 6, "status": "done", "left": 0}
    await warehouse.insert(
        "audience_run", list(past), f"{json.dumps(past)}\n{json.dumps(older)}".encode(), token="runs"
    )
    told = said(ask("history", "cart_abandoned", "--json"))
    assert isinstance(told, list)
    one, two = told
    assert (one["size"], one["entered"], one["left"], one["held"], one["note"]) == (40, 3, 2, 30, "30 wait.")
    assert (two["run_id"], two["left"]) == (6, 0)
    listed = said(ask("list", "--json"))
    assert isinstance(listed, list)
    assert [(each["size"], each["entered"], each["left"]) for each in listed] == [(40, 3, 2), (None, None, None)]
    assert "There is no audience nobody" in ask("history", "nobody").stderr
    dry = said(ask("sync", "1", "--dry-run", "--json"))
    assert dry == [
        {
            "id": 1,
            "name": "cart_abandoned",
            "desired": 1,
            "members": 0,
            "adds": 1,
            "removes": 0,
            "withdrawn": 0,
            "enabled": True,
            "held": 0,
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sites", "add", "--tag-id", "a b", "--origin", "*"), "tag id"),
        (("sites", "add", "--tag-id", "shop", "--origin", "shop.example"), "origin"),
        (("sites", "set", "nobody"), "no site nobody"),
        (("keys", "create", "--site", "nobody"), "no site nobody"),
        (("snippet", "--site", "nobody"), "`pinstream sites add` makes one"),
        (("snippet", "--site", "nobody", "--url", "shop.example"), "no site nobody"),
        (("keys", "revoke", "psk_x"), "keys list"),
        (("audiences", "sync", "77"), "There is no audience 77"),
        (("push",), "ad_account_id"),
    ],
)
def test_a_fault_is_a_sentence_and_exit_code_1(run: Run, arguments: tuple[str, ...], sentence: str) -> None:
    done = run(*arguments, PINSTREAM_WAREHOUSE__PASSWORD="x")
    assert done.returncode == 1, done.stdout
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("sites", "add"), ("nonsense",), ("audiences", "preview")])
def test_a_wrong_command_exits_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


def test_the_sample_is_toml_and_show_masks(run: Run) -> None:
    sample = run("config", "sample")
    assert sample.returncode == 0
    tomllib.loads(sample.stdout)
    shown = run("config", "show", "--json", PINSTREAM_PINTEREST__ACCESS_TOKEN="pina_hush")
    assert "pina_hush" not in shown.stdout
    settings = said(shown)
    assert isinstance(settings, dict)
    assert settings["log"]["kind"] == "journal"


@pytest.mark.parametrize(
    ("role", "setting"),
    [
        ("collect", "PINSTREAM_COLLECT__PORT"),
        ("collect", "PINSTREAM_COLLECT__OPS_PORT"),
        ("load", "PINSTREAM_LOAD__OPS_PORT"),
        ("console", "PINSTREAM_CONSOLE__PORT"),
        ("console", "PINSTREAM_CONSOLE__OPS_PORT"),
        ("warehouse", "PINSTREAM_WAREHOUSE__URL"),
    ],
)
def test_a_taken_port_is_named(run: Run, role: str, setting: str) -> None:
    with serving.bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        environment = {
            "PINSTREAM_COLLECT__PORT": str(free_port()),
            "PINSTREAM_COLLECT__OPS_PORT": str(free_port()),
            "PINSTREAM_WAREHOUSE__URL": f"http://127.0.0.1:{free_port()}",
            "PINSTREAM_WAREHOUSE__PASSWORD": "x",
        }
        done = run(role, **environment | {setting: str(port) if "URL" not in setting else f"http://127.0.0.1:{port}"})
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is taken" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("role", ["collect", "load", "warehouse"])
def test_a_data_folder_that_cannot_be_written_is_named(run: Run, role: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(role, PINSTREAM_DATA_DIR=str(tmp_path / "file" / "data"), PINSTREAM_COLLECT__PORT=str(free_port()))
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_command(run: Run) -> None:
    text = run("--help").stdout
    for name in (
        "collect",
        "load",
        "push",
        "console",
        "warehouse",
        "up",
        "demo",
        "migrate",
        "doctor",
        "sql",
        "sites",
        "keys",
    ):
        assert name in text
