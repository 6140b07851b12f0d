"""Customer lists: hashed e-mails uploaded to Pinterest. A list is a set that we keep; Pinterest matches it to people.

Pinterest takes plain e-mails too. We never send one: every member is checked to be a SHA-256 before a call
is made, and no member is put into a log line or an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

from pinstream.errors import PinterestRefused, Refused
from pinstream.pinterest.client import Client, Operation
from pinstream.pinterest.types import CustomerList, Page

MAX_MEMBERS: Final = 10_000
"""In one call: 650 kB. Pinterest states no bound; callers send less (push.chunk_members)."""
PAGE_SIZE: Final = 250
"""The most Pinterest gives."""
MAX_PAGES: Final = 400
"""Of a search: 100,000 lists or audiences."""

CREATE: Final = Operation(
    "customer_lists/create", "POST", "/ad_accounts/{}/customer_lists", CustomerList, repeatable=False
)
CHANGE: Final = Operation(
    "customer_lists/update", "PATCH", "/ad_accounts/{}/customer_lists/{}", CustomerList, repeatable=True
)
GET: Final = Operation("customer_lists/get", "GET", "/ad_accounts/{}/customer_lists/{}", CustomerList, repeatable=True)
LIST: Final = Operation(
    "customer_lists/list", "GET", "/ad_accounts/{}/customer_lists", Page[CustomerList], repeatable=True
)

_MEMBER: Final = re.compile(r"[0-9a-f]{64}")


async def create(client: Client, ad_account_id: str, *, name: str, members: Sequence[str]) -> CustomerList:
    """Create a list that starts with `members` (SHA-256, lowercase hex; at least one: Pinterest wants some).

    Not repeated after an unclear fault: on PinterestAway ask `find_by_name` before creating again.
    Raises Refused if a member is not a hash; nothing was sent then.
    """
    body = {"name": name, "list_type": "EMAIL", "records": records(members)}
    return await client.call(CREATE, ad_account_id, json=body)


async def change(
    client: Client, ad_account_id: str, list_id: str, operation: Literal["ADD", "REMOVE"], members: Sequence[str]
) -> CustomerList:
    """Add or remove `members` (SHA-256, lowercase hex). The same change twice has the effect of one."""
    body = {"operation_type": operation, "records": records(members)}
    return await client.call(CHANGE, ad_account_id, list_id, json=body)


async def get(client: Client, ad_account_id: str, list_id: str) -> CustomerList:
    """One list. PinterestRefused with status 404 if there is none."""
    return await client.call(GET, ad_account_id, list_id)


async def find_by_name(client: Client, ad_account_id: str, name: str) -> CustomerList | None:
    """The newest list of exactly this name, or None."""
    params = {"page_size": str(PAGE_SIZE), "order": "DESCENDING"}
    for _ in range(MAX_PAGES):
        page = await client.call(LIST, ad_account_id, params=params)
        found = next((item for item in page.items if item.name == name), None)
        if found or not page.bookmark:
            return found
        params["bookmark"] = page.bookmark
    raise too_many("customer lists")


def records(members: Sequence[str]) -> str:
    """The wire form of `members`: one text, comma-separated. Raises Refused, which never quotes a member."""
    if not members:
        raise Refused("missing_field", "A call to a customer list needs at least one member.", field="members")
    if len(members) > MAX_MEMBERS:
        raise Refused("too_many", f"{len(members)} members are more than {MAX_MEMBERS} a call.", field="members")
    for position, member in enumerate(members):
        if not _MEMBER.fullmatch(member):
            detail = f"Member {position} is not a SHA-256 in lowercase hex, so nothing was sent to Pinterest."
            raise Refused("bad_hash", detail, field=f"members[{position}]")
    return ",".join(members)


def too_many(what: str) -> PinterestRefused:
    """The error of a search that did not end."""
    return PinterestRefused(f"The ad account has more than {MAX_PAGES * PAGE_SIZE} {what}; give the id instead.")
