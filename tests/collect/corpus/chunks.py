"""Chunked bodies."""

from __future__ import annotations

from tests.collect.corpus.case import (
    CHUNKED,
    END,
    EVENT,
    HEALTH,
    PIXEL,
    Case,
    answered,
    broken,
    chunk,
    taken,
    unmeasured,
)

SIZE = b"%x" % len(EVENT)


def chunked(body: bytes, path: bytes = b"/p/i") -> bytes:
    return unmeasured(CHUNKED, body=body, path=path)


def sized(size: bytes, end: bytes = END) -> bytes:
    """The event in one chunk of this written size."""
    return chunked(size + b"\r\n" + EVENT + b"\r\n" + end)


CASES: dict[str, Case] = {
    "one chunk": taken(sized(SIZE)),
    "a chunk a byte": taken(chunked(b"".join(chunk(EVENT[at : at + 1]) for at in range(len(EVENT))) + END)),
    "upper case size": taken(chunked(chunk(EVENT[:10]) + chunk(EVENT[10:]).replace(b"1d", b"1D") + END)),
    "size with zeros before": taken(sized(b"000" + SIZE)),
    "end with more zeros": taken(sized(SIZE, b"0000\r\n\r\n")),
    "extension": taken(sized(SIZE + b';a=b;c="d\\"e"')),
    "extension without a name's value": taken(sized(SIZE + b";a")),
    "extension on the end": taken(sized(SIZE, b"0;a=b\r\n\r\n")),
    "trailer": taken(sized(SIZE, b"0\r\nX-Checksum: 1\r\n\r\n")),
    "trailer that would mean something in a head": taken(sized(SIZE, b"0\r\nSec-GPC: 1\r\nDNT: 1\r\n\r\n")),
    "trailer with an origin": taken(sized(SIZE, b"0\r\nOrigin: https://evil.example\r\n\r\n")),
    "trailer with an encoding": taken(sized(SIZE, b"0\r\nContent-Encoding: gzip\r\n\r\n")),
    "trailer with an expectation": taken(sized(SIZE, b"0\r\nExpect: 100-continue\r\n\r\n")),
    "trailer with a length": broken(sized(SIZE, b"0\r\nContent-Length: 5\r\n\r\n")),
    "trailer with a coding": broken(sized(SIZE, b"0\r\nTransfer-Encoding: chunked\r\n\r\n")),
    "trailer that is none": broken(sized(SIZE, b"0\r\nX Y\r\n\r\n")),
    "zero chunk only": answered(chunked(END), "400 empty_body"),
    "zero chunk only, pixel by POST": taken(chunked(END, PIXEL)),
    "zero chunk, and a request": answered(chunked(END + HEALTH), "400 empty_body", "200"),
    "GET in chunks": answered(sized(SIZE).replace(b"POST", b"GET"), "405 method_not_allowed"),
    "size in no digits on a cold route": broken(sized(b"zz").replace(b"/p/i", b"/v1/engagements")),
    "size in no digits further on, on a cold route": broken(chunked(chunk(EVENT) + b"zz\r\n", b"/v1/engagements")),
    "size in no digits further on": broken(chunked(chunk(EVENT) + b"zz\r\n")),
    "size in no digits further on, behind an event": answered(
        sized(SIZE) + chunked(chunk(EVENT) + b"zz\r\n"), "204", "400 bad_http", stored=1, closes=True
    ),
    "size in no digits further on, on a cold route behind an event": answered(
        sized(SIZE) + chunked(chunk(EVENT) + b"zz\r\n", b"/v1/engagements"),
        "204",
        "400 bad_http",
        stored=1,
        closes=True,
    ),
    "size in no digits": broken(sized(b"zz")),
    "negative size": broken(sized(b"-" + SIZE)),
    "size with plus": broken(sized(b"+" + SIZE)),
    "size as 0x": broken(sized(b"0x" + SIZE)),
    "size with an underscore": broken(sized(b"2_7")),
    "blank before the size": broken(sized(b" " + SIZE)),
    "blank after the size": broken(sized(SIZE + b" ")),
    "no size": broken(sized(b"")),
    "size past 64 bits": broken(sized(b"f" * 17)),
    "size that is ours modulo 2^64": broken(sized(b"1" + b"%016x" % len(EVENT))),
    "size one short": broken(sized(b"%x" % (len(EVENT) - 1))),
    "size one long": broken(sized(b"%x" % (len(EVENT) + 1))),
    "LF after the size": broken(chunked(SIZE + b"\n" + EVENT + b"\r\n" + END)),
    "CR after the size": broken(chunked(SIZE + b"\r" + EVENT + b"\r\n" + END)),
    "LF in an extension": broken(sized(SIZE + b";a\nb")),
    "NUL in an extension": broken(sized(SIZE + b";a\0b")),
    "LF after the chunk": broken(chunked(SIZE + b"\r\n" + EVENT + b"\n" + END)),
    "nothing after the chunk": broken(chunked(SIZE + b"\r\n" + EVENT + END)),
    "LF at the end": broken(sized(SIZE, b"0\n\n")),
    "LF at the end of a trailer": broken(sized(SIZE, b"0\r\nA: b\n\r\n")),
}
