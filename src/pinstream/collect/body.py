"""Reading a request's body: bounded in time, in bytes as sent and in bytes as inflated."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

import zstandard
from starlette.types import Receive

from pinstream.errors import Refused
from pinstream.event import MAX_BODY_BYTES

DISCARD_BYTES: Final = 8 << 20  # of a body that is too large
_ZSTD_WINDOW_BYTES: Final = 8 << 20  # RFC 8878 3.1.1.1.2: every decoder should take this much
_ZSTD_STEP_BYTES: Final = 256  # a block of 4 bytes may give 128 KiB, so a step gives 8 MiB at most


class Gone(Exception):
    """The client went away before its request was complete."""


async def read(receive: Receive, content_length: str, timeout_s: float) -> bytes:
    """The body as sent. `content_length`: that header, or empty.

    Raises:
        Refused: too_large, or too_slow after `timeout_s`.
        Gone: the client closed the connection.
    """
    try:
        async with asyncio.timeout(timeout_s):
            if content_length.isascii() and content_length.isdigit() and int(content_length[:20]) > MAX_BODY_BYTES:
                await _discard(receive)
                raise too_large()
            return await _read(receive)
    except TimeoutError as exc:
        raise Refused("too_slow", "The body did not arrive in time.") from exc


async def _read(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            if message.get("more_body"):
                await _discard(receive)
            raise too_large()
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


async def _discard(receive: Receive) -> None:
    """Read on a little, since a client that is still writing might not see the answer."""
    left = DISCARD_BYTES
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return


def inflate(body: bytes, encoding: str) -> bytes:
    """The body without its Content-Encoding.

    Raises:
        Refused: too_large once inflated, bad_encoding if the encoding is unknown or the bytes are not of it.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            return _gunzip(body)
        case "zstd":
            return _unzstd(body)
    raise _bad_encoding()


def _gunzip(body: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as exc:
        raise _bad_encoding() from exc
    if len(inflated) > MAX_BODY_BYTES:
        raise too_large()
    if not stream.eof or stream.unused_data:
        raise _bad_encoding()
    return inflated


def _unzstd(body: bytes) -> bytes:
    stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
    inflated: list[bytes] = []
    size = 0
    for start in range(0, len(body), _ZSTD_STEP_BYTES):
        if stream.eof:
            raise _bad_encoding()
        try:
            chunk = stream.decompress(body[start : start + _ZSTD_STEP_BYTES])
        except zstandard.ZstdError as exc:
            raise _bad_encoding() from exc
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise too_large()
        inflated.append(chunk)
    if not stream.eof or stream.unused_data:
        raise _bad_encoding()
    return b"".join(inflated)


def too_large() -> Refused:
    """The fault of a body past its bound."""
    return Refused("too_large", f"A body has at most {MAX_BODY_BYTES} bytes, also once inflated.")


def _bad_encoding() -> Refused:
    return Refused("bad_encoding", "The body is not what Content-Encoding says. Known are gzip and zstd.")
