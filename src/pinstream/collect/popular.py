"""GET /v1/popular: how many people saved a product or a Pin, as a page may tell it. From the snapshot alone."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
from msgspec.structs import replace
from starlette.requests import Request

from pinstream.collect import answer as answers
from pinstream.collect.answer import Answer
from pinstream.collect.gate import Gate
from pinstream.errors import Refused
from pinstream.state.snapshot import Popular

PATH: Final = "/v1/popular"
CACHE_S: Final = 600
CACHE_NOTHING_S: Final = 60
"""Of an answer that tells nothing: what is new shows soon."""
MAX_ASKED: Final = 100
"""Products and Pins in a request."""
MAX_QUERY_BYTES: Final = 32_768

_NOTHING: Final = Popular()


class Shelf:
    """Answers for all sites."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def answer(self, request: Request) -> Answer:
        """GET and HEAD. Public: any page may read it, nothing is counted, no cookie is looked at."""
        try:
            told = self._told(request.scope["query_string"])
        except Refused as exc:
            return replace(answers.of_refused(exc), mirror=False)
        body = msgspec.json.encode(told)
        tag = f'"{blake2b(body, digest_size=8).hexdigest()}"'
        cache_s = CACHE_S if any(told.values()) else CACHE_NOTHING_S
        headers = [("ETag", tag), ("Cache-Control", f"public, max-age={cache_s}")]
        if tag in request.headers.get("if-none-match", ""):
            return Answer(304, headers, mirror=False)
        return Answer(200, [*headers, ("Content-Type", "application/json")], body, mirror=False)

    def _told(self, query: bytes) -> dict[str, dict[str, Any]]:
        if len(query) > MAX_QUERY_BYTES:
            raise Refused("too_long", f"A query has at most {MAX_QUERY_BYTES} bytes.")
        said = parse_qs(query.decode(errors="replace"))
        products, pins = said.get("product", []), said.get("pin", [])
        if "site" not in said:
            raise Refused("missing_field", "The request names no site.", field="$.site")
        if not products and not pins:
            raise Refused("missing_field", "The request names no product.", field="$.product")
        if len(products) + len(pins) > MAX_ASKED:
            raise Refused("too_many", f"At most {MAX_ASKED} products and Pins in a request.", field="$.product")
        site = self._gate.site(said["site"][0])
        if site is None:
            raise Refused("unknown_site", "There is no such site.", field="$.site")
        popular = self._gate.snapshot.popular.get(site.id, _NOTHING)
        return {"products": _told(popular.products, products), "pins": _told(popular.pins, pins)}


def _told(savers: dict[str, int], asked: list[str]) -> dict[str, Any]:
    """What is popular of what was asked for, each once."""
    found = {each: savers[each] for each in asked if each in savers}
    return {each: {"savers": f"{least:,}+", "at_least": least} for each, least in found.items()}
