"""Audiences: what an ad group targets. A customer list becomes usable through an audience built on it.

Two objects a target: the list (lists.py), then the audience. A creation may break off between the two, so
both can be found again by what they carry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pinstream.errors import PinterestRefused
from pinstream.pinterest.client import Client, Operation
from pinstream.pinterest.lists import MAX_PAGES, PAGE_SIZE, too_many
from pinstream.pinterest.types import Audience, Page

CREATE: Final = Operation("audiences/create", "POST", "/ad_accounts/{}/audiences", Audience, repeatable=False)
GET: Final = Operation("audiences/get", "GET", "/ad_accounts/{}/audiences/{}", Audience, repeatable=True)
UPDATE: Final = Operation("audiences/update", "PATCH", "/ad_accounts/{}/audiences/{}", Audience, repeatable=True)
LIST: Final = Operation("audiences/list", "GET", "/ad_accounts/{}/audiences", Page[Audience], repeatable=True)


async def create_customer_list_audience(
    client: Client, ad_account_id: str, *, name: str, customer_list_id: str, description: str = ""
) -> Audience:
    """Create an audience of the people of a customer list.

    Not repeated after an unclear fault: on PinterestAway ask `find_by_list` before creating again.
    """
    body = {"audience_type": "CUSTOMER_LIST", "name": name, "rule": {"customer_list_id": customer_list_id}}
    if description:
        body["description"] = description
    return await client.call(CREATE, ad_account_id, json=body)


async def get(client: Client, ad_account_id: str, audience_id: str) -> Audience:
    """One audience, with its size and status. PinterestRefused with status 404 if there is none."""
    return await client.call(GET, ad_account_id, audience_id)


async def find_by_name(client: Client, ad_account_id: str, name: str) -> Audience | None:
    """The newest audience of exactly this name, or None."""
    return await _find(client, ad_account_id, lambda audience: audience.name == name)


async def find_by_list(client: Client, ad_account_id: str, customer_list_id: str) -> Audience | None:
    """The newest audience that is built on this customer list, or None."""

    def built_on_it(audience: Audience) -> bool:
        return audience.rule is not None and audience.rule.customer_list_id == customer_list_id

    return await _find(client, ad_account_id, built_on_it)


async def remove(client: Client, ad_account_id: str, audience_id: str) -> None:
    """See to it that the audience is gone (by PATCH; Pinterest has no DELETE). Its customer list stays."""
    try:
        await client.call(UPDATE, ad_account_id, audience_id, json={"operation_type": "REMOVE"})
    except PinterestRefused as exc:
        if exc.status != 404:  # gone already, perhaps by a first try whose answer was lost
            raise


async def _find(client: Client, ad_account_id: str, wanted: Callable[[Audience], bool]) -> Audience | None:
    params = {"page_size": str(PAGE_SIZE), "order": "DESCENDING"}
    for _ in range(MAX_PAGES):
        page = await client.call(LIST, ad_account_id, params=params)
        found = next((item for item in page.items if wanted(item)), None)
        if found or not page.bookmark:
            return found
        params["bookmark"] = page.bookmark
    raise too_many("audiences")
