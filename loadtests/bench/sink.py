"""Stands in for the collectors of other tags: serves the script, takes whatever is sent, and notes the ids in it."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_plus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MAX_TEXT_BYTES: Final = 4 << 20
METHODS: Final = ["GET", "POST", "OPTIONS", "HEAD"]

_ID: Final = re.compile(r"bench-leave-(\d+)\b")
_BASE64: Final = re.compile(r"[\w+/-]{32,}", re.ASCII)


class Sink:
    """A peer's script under /peer.js, and an answer 200 with `{}` under every other path."""

    def __init__(self, script: bytes) -> None:
        self.seen: Counter[int] = Counter()
        self._script = script

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/peer.js", self._peer), Route("/{path:path}", self._take, methods=METHODS)])

    async def _peer(self, request: Request) -> Response:
        return Response(self._script, media_type="text/javascript", headers={"Cache-Control": "max-age=300"})

    async def _take(self, request: Request) -> Response:
        self.seen.update(ids(request.url.query.encode()) | ids(await request.body()))
        answer = JSONResponse({})
        answer.headers["Access-Control-Allow-Origin"] = request.headers.get("origin", "*")
        answer.headers["Access-Control-Allow-Credentials"] = "true"
        answer.headers["Access-Control-Allow-Headers"] = request.headers.get("access-control-request-headers", "*")
        return answer


def ids(data: bytes) -> set[int]:
    """The numbers of all `bench-leave-NUMBER` in what a tag sent, however it packed it."""
    return {int(number) for text in _texts(data, depth=3) for number in _ID.findall(text)}


def _texts(data: bytes, depth: int) -> Iterator[str]:
    """The data as a text, and what is in it: gzipped, percent-encoded or in base64, `depth` deep."""
    if data[:2] == b"\x1f\x8b":
        data = zlib.decompressobj(wbits=31).decompress(data, MAX_TEXT_BYTES)
    text = data.decode("utf-8", "replace")
    yield text
    if not depth:
        return
    if "%" in text:
        yield from _texts(unquote_plus(text).encode(), depth - 1)
    for found in _BASE64.findall(text):
        padded = found.rstrip("=") + "=" * (-len(found.rstrip("=")) % 4)
        try:
            yield from _texts(
                base64.b64decode(padded, altchars=b"-_" if re.search("[-_]", padded) else None), depth - 1
            )
        except (binascii.Error, zlib.error):
            continue  # it only looked like it
