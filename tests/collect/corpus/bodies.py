"""Bodies at their bound, encoded well and badly."""

from __future__ import annotations

import gzip

import zstandard

from pinstream.event import MAX_BODY_BYTES
from tests.collect.corpus.case import CHUNKED, END, EVENT, Case, answered, chunk, post, taken, unmeasured

BOMB = bytes(16 << 20)
GZIP, ZSTD = b"Content-Encoding: gzip", b"Content-Encoding: zstd"


def of(size: int) -> bytes:
    """A good body of exactly this many bytes."""
    return EVENT[:-1] + b" " * (size - len(EVENT)) + b"}"


def in_chunks(body: bytes) -> bytes:
    pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    return unmeasured(CHUNKED, body=b"".join(map(chunk, pieces)) + END)


def gzipped(*names: bytes) -> bytes:
    return post(*[b"Content-Encoding: " + name for name in names], body=gzip.compress(EVENT, mtime=0))


TWICE = gzip.compress(gzip.compress(EVENT, mtime=0), mtime=0)

CASES: dict[str, Case] = {
    "at the bound": taken(post(body=of(MAX_BODY_BYTES))),
    "past the bound": answered(post(body=of(MAX_BODY_BYTES + 1)), "413 too_large", closes=True),
    "at the bound in chunks": taken(in_chunks(of(MAX_BODY_BYTES))),
    "past the bound in chunks": answered(in_chunks(of(MAX_BODY_BYTES + 1)), "413 too_large", closes=True),
    "far past the bound": answered(post(body=bytes(4 << 20)), "413 too_large", closes=True),
    "gzip": taken(gzipped(b"gzip")),
    "x-gzip": taken(gzipped(b"x-gzip")),
    "GZIP": taken(gzipped(b"GZIP")),
    "gzip in chunks": taken(unmeasured(CHUNKED, GZIP, body=chunk(gzip.compress(EVENT, mtime=0)) + END)),
    "gzip and gzip": answered(post(b"Content-Encoding: gzip, gzip", body=TWICE), "400 bad_encoding"),
    "gzip on two lines": answered(post(GZIP, GZIP, body=TWICE), "400 bad_text"),
    "identity and gzip on two lines": answered(gzipped(b"identity", b"gzip"), "400 bad_text"),
    "no encoding": taken(post(b"Content-Encoding:")),
    "not gzip": answered(post(GZIP), "400 bad_encoding"),
    "gzip cut short": answered(post(GZIP, body=gzip.compress(EVENT)[:-1]), "400 bad_encoding"),
    "gzip and a byte": answered(post(GZIP, body=gzip.compress(EVENT) + b"x"), "400 bad_encoding"),
    "gzip of nothing": answered(post(GZIP, body=gzip.compress(b"")), "400 empty_body"),
    "nothing as gzip": answered(post(GZIP, body=b""), "400 bad_encoding"),
    "gzip at the bound": taken(post(GZIP, body=gzip.compress(of(MAX_BODY_BYTES), mtime=0))),
    "gzip past the bound": answered(
        post(GZIP, body=gzip.compress(of(MAX_BODY_BYTES + 1))), "413 too_large", closes=True
    ),
    "gzip bomb": answered(post(GZIP, body=gzip.compress(BOMB)), "413 too_large", closes=True),
    "zstd": taken(post(ZSTD, body=zstandard.compress(EVENT))),
    "not zstd": answered(post(ZSTD), "400 bad_encoding"),
    "zstd cut short": answered(post(ZSTD, body=zstandard.compress(EVENT)[:-1]), "400 bad_encoding"),
    "zstd and a byte": answered(post(ZSTD, body=zstandard.compress(EVENT) + b"x"), "400 bad_encoding"),
    "zstd at the bound": taken(post(ZSTD, body=zstandard.compress(of(MAX_BODY_BYTES)))),
    "zstd past the bound": answered(
        post(ZSTD, body=zstandard.compress(of(MAX_BODY_BYTES + 1))), "413 too_large", closes=True
    ),
    "zstd bomb": answered(post(ZSTD, body=zstandard.compress(BOMB)), "413 too_large", closes=True),
    "unknown encoding": answered(post(b"Content-Encoding: br"), "400 bad_encoding"),
    "garbage": answered(post(body=bytes(range(256))), "400 bad_text"),
    "a request for a body": answered(post(body=post()), "400 bad_json"),
}
