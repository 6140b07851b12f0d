"""What Pinterest's API v5 answers, as far as we read it.

Names and meanings are those of Pinterest's own description (openapi/openapi.yaml, 5.23.0; section
`components.schemas`). The live API is ahead of that file, so fields we do not know are passed over and
the texts it calls enums stay plain `str`: a new status is not an error here.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

Item = TypeVar("Item")


class CustomerList(Struct, frozen=True, kw_only=True):
    """`CustomerList`: answer of customer_lists/create, /get, /update.

    The counters count attempts: adding a person twice counts two. Nothing tells how many people matched.
    """

    id: str
    ad_account_id: str = ""
    name: str = ""
    status: str = ""
    """PROCESSING, READY, TOO_SMALL or UPLOADING."""
    num_batches: float = 0
    num_uploaded_user_records: float = 0
    num_removed_user_records: float = 0
    exceptions: dict[str, Any] | None = None
    created_time: float = 0
    """Unix seconds."""
    updated_time: float = 0
    """Unix seconds."""


class AudienceRule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`AudienceRule`, the part a CUSTOMER_LIST audience uses."""

    customer_list_id: str = ""


class Audience(Struct, frozen=True, kw_only=True):
    """`Audience`: answer of audiences/create, /get, /update."""

    id: str
    ad_account_id: str = ""
    name: str = ""
    audience_type: str = ""
    """CUSTOMER_LIST, VISITOR, ENGAGEMENT, ACTALIKE or PERSONA."""
    description: str | None = None
    rule: AudienceRule | None = None
    size: int | None = None
    """Matched Pinterest accounts; None while Pinterest has not counted."""
    status: str = ""
    """READY, INITIALIZING or TOO_SMALL (under 100 matched accounts)."""
    created_timestamp: int | None = None
    """Unix seconds."""
    updated_timestamp: int | None = None
    """Unix seconds."""


class AdAccount(Struct, frozen=True, kw_only=True):
    """`AdAccount`: answer of ad_accounts/get."""

    id: str
    name: str = ""
    country: str = ""
    currency: str = ""
    permissions: list[str] = []


class Account(Struct, frozen=True, kw_only=True):
    """`Account`: answer of user_account/get."""

    id: str = ""
    username: str = ""
    account_type: str = ""


class Page(Struct, Generic[Item], frozen=True, kw_only=True):
    """`Paginated`: some items and where to go on; no bookmark means that this page is the last."""

    items: list[Item]
    bookmark: str | None = None


class ErrorBody(Struct, frozen=True, kw_only=True):
    """`Error`: the body of every answer that is not a success."""

    code: int
    message: str = ""


def error_body(body: bytes) -> ErrorBody:
    """Pinterest's error in `body`; code 0 where the body is something else, such as a proxy's page."""
    try:
        return msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ErrorBody(code=0, message="(the answer is not one of Pinterest's error bodies)")
