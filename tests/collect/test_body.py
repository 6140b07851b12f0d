"""Bodies: bounded in bytes as sent and as inflated."""

from __future__ import annotations

import asyncio
import gzip
import os
import tracemalloc

import pytest
import zstandard
from starlette.types import Message

from pinstream.collect import body as bodies
from pinstream.errors import Refused
from pinstream.event import MAX_BODY_BYTES


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


class Wire:
    """What a server hands over, piece by piece."""

    def __init__(self, *messages: Message) -> None:
        self.left = list(messages)

    async def __call__(self) -> Message:
        if not self.left:
            await asyncio.sleep(3600)
        return self.left.pop(0)


def piece(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


async def read(*messages: Message, length: str = "", timeout_s: float = 5) -> bytes:
    return await bodies.read(Wire(*messages), length, timeout_s)


async def test_pieces_make_a_body() -> None:
    assert await read(piece(b"a", more=True), piece(b"", more=True), piece(b"b")) == b"ab"


async def test_a_body_is_bounded_while_it_is_read() -> None:
    half = b"x" * (MAX_BODY_BYTES // 2)
    assert len(await read(piece(half, more=True), piece(half))) == MAX_BODY_BYTES
    with pytest.raises(Refused) as caught:
        await read(piece(half, more=True), piece(half, more=True), piece(b"x"))
    assert caught.value.reason == "too_large"


async def test_a_body_that_says_it_is_too_large_is_not_kept() -> None:
    assert await read(piece(b"x"), length=str(MAX_BODY_BYTES)) == b"x"
    wire = Wire(*(piece(b"x" * 65_536, more=True) for _ in range(200)))
    with pytest.raises(Refused) as caught:
        await bodies.read(wire, str(MAX_BODY_BYTES + 1), 5)
    assert caught.value.reason == "too_large"
    assert len(wire.left) == 200 - bodies.DISCARD_BYTES // 65_536


@pytest.mark.parametrize("length", ["", "-1", "x", "²"])
async def test_a_length_that_is_no_number_is_not_believed(length: str) -> None:
    assert await read(piece(b"x"), length=length) == b"x"


async def test_a_body_that_does_not_arrive_is_too_slow() -> None:
    with pytest.raises(Refused) as caught:
        await read(piece(b"x", more=True), timeout_s=0.05)
    assert caught.value.reason == "too_slow"


async def test_a_client_that_leaves_is_gone() -> None:
    with pytest.raises(bodies.Gone):
        await read(piece(b"x", more=True), {"type": "http.disconnect"})


@pytest.mark.parametrize("encoding", ["", "identity", " Identity "])
def test_nothing_to_inflate(encoding: str) -> None:
    assert bodies.inflate(b"{}", encoding) == b"{}"


@pytest.mark.parametrize("data", [b"", b"{}", os.urandom(50_000), b"x" * MAX_BODY_BYTES])
def test_inflating(data: bytes) -> None:
    assert bodies.inflate(gzip.compress(data, mtime=0), "gzip") == data
    assert bodies.inflate(gzip.compress(data, mtime=0), "X-GZIP") == data
    assert bodies.inflate(zstd(data), "zstd") == data


def test_an_inflated_body_is_bounded() -> None:
    for pack, encoding in ((gzip.compress, "gzip"), (zstd, "zstd")):
        with pytest.raises(Refused) as caught:
            bodies.inflate(pack(b"x" * (MAX_BODY_BYTES + 1)), encoding)
        assert caught.value.reason == "too_large"


def test_a_bomb_takes_little_memory() -> None:
    for bomb, encoding in ((gzip.compress(bytes(200 << 20), 9, mtime=0), "gzip"), (zstd(bytes(200 << 20)), "zstd")):
        tracemalloc.start()
        with pytest.raises(Refused):
            bodies.inflate(bomb, encoding)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"{}", "gzip"),
        (b"{}", "zstd"),
        (b"", "gzip"),
        (b"", "zstd"),
        (gzip.compress(b"{}", mtime=0)[:-1], "gzip"),
        (gzip.compress(b"{}", mtime=0) + b"x", "gzip"),
        (zstd(b"{}")[:-1], "zstd"),
        (zstd(b"{}") + b"x", "zstd"),
        (zstd(os.urandom(255)) + b"x" * 600, "zstd"),
        (b"{}", "br"),
        (b"{}", "deflate"),
        (gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), "gzip, gzip"),
    ],
)
def test_what_is_not_of_its_encoding_is_refused(body: bytes, encoding: str) -> None:
    with pytest.raises(Refused) as caught:
        bodies.inflate(body, encoding)
    assert caught.value.reason == "bad_encoding"
