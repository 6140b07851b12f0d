"""The requests: what browsers with our tag send, each from another visitor. Pure, with the time as an argument."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

SITE: Final = "2600000000001"
ORIGIN: Final = "https://www.shop.example"
REQUESTS: Final = 20_000
BATCH: Final = 50
BATCHES: Final = REQUESTS // BATCH

AGENTS: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 "
    "Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 "
    "Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 "
    "Mobile Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 "
    "Edg/142.0.0.0",
)
LANGUAGES: Final = ("de-DE,de;q=0.9,en;q=0.8", "en-GB,en;q=0.9", "fr-FR,fr;q=0.9,en;q=0.7")
NAMES: Final = ("pagevisit", "addtocart", "viewcategory", "search")
PRODUCTS: Final = ("mug", "vase", "bowl", "lamp", "chair", "rug", "frame", "candle")


def singles(seed: int, now_ms: int) -> list[bytes]:
    """REQUESTS different `POST /p/i` with one event each; a body has about 450 bytes."""
    return [_post(visitor, _body(visitor, [visitor.event()])) for visitor in _visitors(seed, now_ms, REQUESTS)]


def batches(seed: int, now_ms: int) -> list[bytes]:
    """BATCHES different `POST /p/i` with BATCH events each, as the tag sends what waited for consent."""
    return [
        _post(visitor, _body(visitor, [visitor.event() for _ in range(BATCH)]))
        for visitor in _visitors(seed, now_ms, BATCHES)
    ]


def pixels(seed: int, now_ms: int) -> list[bytes]:
    """REQUESTS different `GET /v3/` in Pinterest's form, as an image in a page sends them."""
    return [_get(visitor) for visitor in _visitors(seed, now_ms, REQUESTS)]


def write(path: Path, requests: Sequence[bytes]) -> None:
    """Each request after its length in ten digits, as wrk.lua and `read` take them."""
    with path.open("wb") as file:
        for each in requests:
            file.write(b"%010d" % len(each) + each)


def read(path: Path) -> list[bytes]:
    """What `write` wrote."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        begin, end = at + 10, at + 10 + int(data[at : at + 10])
        found.append(data[begin:end])
        at = end
    return found


class _Visitor:
    """One browser on one page."""

    def __init__(self, dice: random.Random, now_ms: int) -> None:
        self._dice = dice
        self.now_ms = now_ms
        self.id = UUID(int=dice.getrandbits(128), version=4)
        self.agent = dice.choice(AGENTS)
        self.language = dice.choice(LANGUAGES)
        self.product = dice.choice(PRODUCTS)
        self.page = f"{ORIGIN}/p/{self.product}-{dice.randrange(100_000)}?utm_source=pinterest"

    def event(self) -> dict[str, Any]:
        price = self._dice.randrange(500, 20_000) / 100
        return {
            "value": price,
            "currency": "EUR",
            "line_items": [{"product_id": self.product, "product_price": price, "product_quantity": 1}],
            "event": self._dice.choice(NAMES),
            "event_id": str(UUID(int=self._dice.getrandbits(128), version=4)),
            "time": self.now_ms - self._dice.randrange(1000),
            "url": self.page,
            "referrer": "https://www.pinterest.com/",
        }


def _visitors(seed: int, now_ms: int, count: int) -> Iterator[_Visitor]:
    dice = random.Random(seed)
    return (_Visitor(dice, now_ms) for _ in range(count))


def _body(visitor: _Visitor, events: list[dict[str, Any]]) -> bytes:
    envelope = {"site": SITE, "sent_at": visitor.now_ms, "consent": "yes", "visitor_id": str(visitor.id)}
    return json.dumps({**envelope, "events": events}, separators=(",", ":")).encode()


def _post(visitor: _Visitor, body: bytes) -> bytes:
    head = _head("POST /p/i", visitor, accept="*/*", origin=True)
    return head + f"Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _get(visitor: _Visitor) -> bytes:
    event = visitor.event()
    fields = {
        "tid": SITE,
        "event": event["event"],
        "ed[event_id]": event["event_id"],
        "ed[value]": event["value"],
        "ed[currency]": event["currency"],
        "ed[line_items][0][product_id]": visitor.product,
        "ed[line_items][0][product_price]": event["value"],
        "ad[loc]": visitor.page,
        "ad[ref]": event["referrer"],
        "cb": visitor.now_ms,
        "consent": "yes",
    }
    query = "&".join(f"{quote(name)}={quote(str(value), safe='')}" for name, value in fields.items())
    head = _head(f"GET /v3/?{query}", visitor, accept="image/avif,image/webp,*/*;q=0.8", origin=False)
    return head + b"\r\n"


def _head(line: str, visitor: _Visitor, *, accept: str, origin: bool) -> bytes:
    lines = [
        f"{line} HTTP/1.1",
        "Host: t.shop.example",
        "Connection: keep-alive",
        f"User-Agent: {visitor.agent}",
        f"Accept: {accept}",
        f"Accept-Language: {visitor.language}",
        "Accept-Encoding: gzip, deflate, br, zstd",
        *([f"Origin: {ORIGIN}"] if origin else []),
        f"Referer: {ORIGIN}/",
        "Sec-Fetch-Site: same-site",
        f"Cookie: ps_vid={visitor.id}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n"
