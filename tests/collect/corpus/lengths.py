"""Where a request ends: Content-Length against itself and against Transfer-Encoding. Most are ways to smuggle."""

from __future__ import annotations

from tests.collect.corpus.case import (
    CHUNKED,
    END,
    EVENT,
    HEALTH,
    Case,
    answered,
    broken,
    chunk,
    post,
    taken,
    unmeasured,
)

SIZE = b"%d" % len(EVENT)
IN_CHUNKS = chunk(EVENT) + END
HIDDEN = post(body=EVENT.replace(b'"1"', b'"hidden"'))
"""A request that stands where another one's body may be."""


def coded(*codings: bytes, also: tuple[bytes, ...] = ()) -> bytes:
    """An event in chunks, under these lines of Transfer-Encoding."""
    return unmeasured(*also, *[b"Transfer-Encoding: " + coding for coding in codings], body=IN_CHUNKS)


CASES: dict[str, Case] = {
    # --- Content-Length ---
    "length with blanks": taken(post(length=b"  " + SIZE + b" \t")),
    "length after a tab": taken(post(length=b"\t" + SIZE)),
    "length with zeros before": taken(post(length=b"000" + SIZE)),
    "length twice, equal": broken(post(b"Content-Length: " + SIZE)),
    "length twice, shorter last": broken(post(b"Content-Length: " + SIZE, length=b"5")),
    "length twice, shorter first": broken(post(b"Content-Length: 5")),
    "length as a list": broken(post(length=SIZE + b", " + SIZE)),
    "length as a list without blank": broken(post(length=SIZE + b"," + SIZE)),
    "length with plus": broken(post(length=b"+" + SIZE)),
    "negative length": broken(post(length=b"-1")),
    "minus zero": broken(post(length=b"-0")),
    "hexadecimal length": broken(post(length=b"0x27")),
    "length with an exponent": broken(post(length=b"1e1")),
    "length with a fraction": broken(post(length=SIZE + b".0")),
    "length in two words": broken(post(length=b"3 9")),
    "length with an underscore": broken(post(length=b"3_9")),
    "length in other digits": broken(post(length="٣٩".encode())),
    "length after VT": broken(post(length=b"\x0b" + SIZE)),
    "length in quotes": broken(post(length=b'"' + SIZE + b'"')),
    "no length in the field": broken(post(length=b"")),
    "length past 64 bits": broken(post(length=b"99999999999999999999999")),
    "length that is ours modulo 2^64": broken(post(length=b"%d" % (2**64 + len(EVENT)))),
    "blank before the length's colon": broken(unmeasured(b"Content-Length : " + SIZE)),
    "length on a folded line": broken(unmeasured(b"Content-Length:\r\n " + SIZE)),
    "length of nothing": answered(post(length=b"0", body=b""), "400 empty_body"),
    "length of nothing, and a request": answered(post(length=b"0", body=b"") + HEALTH, "400 empty_body", "200"),
    "no length and no body": answered(unmeasured(body=b""), "400 empty_body"),
    "no length, and a request": answered(unmeasured(body=HEALTH), "400 empty_body", "200"),
    "shorter than the body": answered(post(length=b"3"), "400 bad_json", "400 bad_http", closes=True),
    # --- Transfer-Encoding ---
    "chunked": taken(coded(b"chunked")),
    "Chunked": taken(coded(b"CHUNKED")),
    "chunked after a tab": taken(coded(b"\tchunked")),
    "chunked and a blank": taken(coded(b"chunked ")),
    "another coding, then chunked": taken(coded(b"identity, chunked")),
    "two lines that end in chunked": taken(coded(b"identity", b"chunked")),
    "two lines that do not end in chunked": broken(coded(b"chunked", b"identity")),
    "chunked twice": broken(coded(b"chunked", b"chunked")),
    "chunked, chunked": broken(coded(b"chunked, chunked")),
    "chunked, identity": broken(coded(b"chunked, identity")),
    "xchunked": broken(coded(b"xchunked")),
    "chunkedx": broken(coded(b"chunkedx")),
    "chunked after VT": broken(coded(b"\x0bchunked")),
    "chunked and NUL": broken(coded(b"chunked\0")),
    "chunked in quotes": broken(coded(b'"chunked"')),
    "chunked with a parameter": broken(coded(b"chunked;q=1")),
    "chunked and a comma": broken(coded(b"chunked,")),
    "chunked on a folded line": broken(coded(b"\r\n chunked")),
    "blank before the coding's colon": broken(unmeasured(b"Transfer-Encoding : chunked", body=IN_CHUNKS)),
    "identity": broken(unmeasured(b"Transfer-Encoding: identity")),
    "no coding": broken(unmeasured(b"Transfer-Encoding:")),
    "no coding, then chunked": broken(coded(b"", b"chunked")),
    # --- both ---
    "chunked and a length": broken(coded(b"chunked", also=(b"Content-Length: 5",))),
    "chunked and the length of the event": broken(coded(b"chunked", also=(b"Content-Length: " + SIZE,))),
    "a length and chunked": broken(unmeasured(b"Content-Length: %d" % len(IN_CHUNKS), CHUNKED, body=IN_CHUNKS)),
    "a length and identity": broken(post(b"Transfer-Encoding: identity")),
    "a length and xchunked": broken(post(b"Transfer-Encoding: xchunked")),
    "a length and no coding": broken(post(b"Transfer-Encoding:")),
    "CL.TE, a request hidden behind the last chunk": broken(
        unmeasured(b"Content-Length: %d" % len(END + HIDDEN), CHUNKED, body=END + HIDDEN)
    ),
    "TE.CL, a request hidden in a chunk": broken(unmeasured(CHUNKED, b"Content-Length: 4", body=chunk(HIDDEN) + END)),
    "CL.CL, a request hidden in the longer one": broken(
        unmeasured(b"Content-Length: 0", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN)
    ),
    "a request hidden behind an unknown coding": broken(unmeasured(b"Transfer-Encoding: x", body=HIDDEN)),
    "1.0 in chunks": taken(coded(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0"), closes=True),
}
