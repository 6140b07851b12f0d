"""What a case is, and the pieces that cases are made of."""

from __future__ import annotations

from typing import NamedTuple

from pinstream.state.snapshot import Site

TINY = Site(id=9, tag_id="s", consent_default="yes")
"""A site that takes events from everywhere, with the shortest of names."""

EVENT = b'{"site":"s","event":"x","event_id":"1"}'


class Case(NamedTuple):
    """Bytes for one connection, and what must come back."""

    sent: bytes
    answers: tuple[str, ...]
    """In order, each `status` or `status reason`; `HEAD` before it where no body follows."""
    stored: int = 0
    """Events that must reach the log: no more and no fewer."""
    closes: bool = False
    """Whether the server ends the connection; else a further request on it must be answered."""


def taken(sent: bytes, *, closes: bool = False) -> Case:
    """One event, stored."""
    return Case(sent, ("204",), 1, closes)


def answered(sent: bytes, *answers: str, stored: int = 0, closes: bool = False) -> Case:
    """These answers."""
    return Case(sent, answers, stored, closes)


def broken(sent: bytes, answer: str = "400 bad_http") -> Case:
    """Bytes after which nobody can tell where the next request begins: nothing is stored, and the connection ends."""
    return Case(sent, (answer,), closes=True)


def request(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([line + b" HTTP/1.1", *fields, b"", body])


def post(*fields: bytes, body: bytes = EVENT, path: bytes = b"/p/i", length: bytes | None = None) -> bytes:
    """`length`: what Content-Length says, if not the truth."""
    counted = b"Content-Length: " + (b"%d" % len(body) if length is None else length)
    return request(b"POST " + path, b"Host: x", *fields, counted, body=body)


def unmeasured(*fields: bytes, body: bytes = EVENT, path: bytes = b"/p/i") -> bytes:
    """A POST with no other framing than what `fields` say."""
    return request(b"POST " + path, b"Host: x", *fields, body=body)


def get(path: bytes, *fields: bytes, method: bytes = b"GET") -> bytes:
    return request(method + b" " + path, b"Host: x", *fields)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


END = b"0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
HEALTH = get(b"/healthz")
PIXEL = b"/v3/?tid=s&event=x&event_id=1"
