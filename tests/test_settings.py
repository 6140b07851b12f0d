from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from pinstream import settings
from pinstream.errors import Misconfigured


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("PINSTREAM_"):
            monkeypatch.delenv(name)


def test_defaults_suffice() -> None:
    assert settings.load().log.kind == "journal"


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pinstream.toml").write_text("[collect]\nport = 1111\nops_port = 2222\n")
    monkeypatch.setenv("PINSTREAM_COLLECT__PORT", "3333")
    loaded = settings.load()
    assert (loaded.collect.port, loaded.collect.ops_port) == (3333, 2222)


def test_a_typo_in_the_file_names_the_key(tmp_path: Path) -> None:
    (tmp_path / "pinstream.toml").write_text("[collect]\nprot = 1\n")
    with pytest.raises(Misconfigured, match=r"collect\.prot: no such setting. Did you mean collect\.port\?"):
        settings.load()


@pytest.mark.parametrize("name", ["PINSTREAM_COLLECT__PROT", "PINSTREAM_COLECT__PORT", "PINSTREAM_PORT"])
def test_a_typo_in_the_environment_names_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(Misconfigured, match=name):
        settings.load()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("collect.port", "0"),
        ("collect.port", "65536"),
        ("collect.port", "eighty"),
        ("log.kind", "rabbit"),
        ("load.max_bad_ratio", "1.1"),
        ("pinterest.ad_account_id", "1234567890123456789"),
        ("warehouse.database", "a;b"),
    ],
)
def test_a_bad_value_names_the_key(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.PREFIX + key.upper().replace(".", "__"), value)
    with pytest.raises(Misconfigured, match=f"{key}: "):
        settings.load()


def test_a_file_that_is_named_and_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINSTREAM_CONFIG", "nowhere.toml")
    with pytest.raises(Misconfigured, match=r"nowhere\.toml"):
        settings.load()


def test_broken_toml_says_where(tmp_path: Path) -> None:
    (tmp_path / "pinstream.toml").write_text("[collect\n")
    with pytest.raises(Misconfigured, match="line 1"):
        settings.load()


def test_the_sample_is_valid_and_complete_when_uncommented(tmp_path: Path) -> None:
    sample = settings.sample()
    keys = [key for key, _, _ in settings._keys()]
    lines = [
        line.removeprefix("# ") if " = " in line and line[2:].split(" = ")[0].isidentifier() else line
        for line in sample.splitlines()
    ]
    (tmp_path / "pinstream.toml").write_text("\n".join(lines))
    flat = tomllib.loads("\n".join(lines))
    assert {key for key in keys if "." not in key} <= set(flat)
    assert {f"{section}.{name}" for section in flat if isinstance(flat[section], dict) for name in flat[section]} == {
        key for key in keys if "." in key
    }
    assert settings.load() == settings.Settings()


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINSTREAM_PINTEREST__ACCESS_TOKEN", "pina_secret")
    monkeypatch.setenv("PINSTREAM_WAREHOUSE__PASSWORD", "hush")
    monkeypatch.setenv("PINSTREAM_STATE__URL", "postgresql://me:hush@db/pinstream")
    monkeypatch.setenv("PINSTREAM_LOG__KAFKA_EXTRA", '{"sasl_plain_password": "hush"}')
    loaded = settings.load()
    assert loaded.pinterest.access_token.get_secret_value() == "pina_secret"
    for text in (str(settings.shown(loaded)), repr(loaded)):
        assert "pina_secret" not in text
    assert "hush" not in str(settings.shown(loaded))


def test_every_setting_is_documented() -> None:
    assert [key for key, field, _ in settings._keys() if not field.description] == []
