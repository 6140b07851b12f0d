"""The warehouse's passwords: from the settings, or from files that the embedded warehouse and its clients share."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from pinstream.errors import SetupFault
from pinstream.settings import Settings


def password(settings: Settings) -> str:
    """The password to send, and for the embedded warehouse to ask for.

    The one in the settings; else, for an embedded warehouse, the one in its file, made by whoever comes first.

    Raises:
        SetupFault: the file cannot be read or made.
    """
    explicit = settings.warehouse.password.get_secret_value()
    if explicit or settings.warehouse.mode != "embedded":
        return explicit
    return _kept(settings.warehouse_password_file, "warehouse.password")


def analyst_password(settings: Settings) -> str:
    """That of the embedded warehouse's reader of the views for analysts: from the settings, else from its file.

    Raises:
        SetupFault: the file cannot be read or made.
    """
    explicit = settings.warehouse.analyst_password.get_secret_value()
    return explicit or _kept(settings.analyst_password_file, "warehouse.analyst_password")


def _kept(path: Path, setting: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        with suppress(FileExistsError):
            os.link(draft, path)  # whoever is first decides, and nobody reads half a file
        draft.unlink()
        return path.read_text().strip()
    except OSError as exc:
        raise SetupFault(
            f"Cannot keep a password in {path}: {exc.strerror}. Check data_dir, or set {setting}."
        ) from exc
