"""Several requests in one go: answers in order, and nothing of what stands behind an end."""

from __future__ import annotations

import gzip

from tests.collect.corpus.case import (
    CHUNKED,
    END,
    EVENT,
    HEALTH,
    PIXEL,
    Case,
    answered,
    chunk,
    get,
    post,
    request,
    unmeasured,
)

CHUNKS = unmeasured(CHUNKED, body=chunk(EVENT) + END)
BAD = post(body=b"{")
GZIP = b"Content-Encoding: gzip"

CASES: dict[str, Case] = {
    "two events": answered(post() * 2, "204", "204", stored=2),
    "an empty line between": answered(post() + b"\r\n" + post(), "204", "204", stored=2),
    "hot and cold": answered(
        post() + HEALTH + CHUNKS + get(b"/nowhere") + get(PIXEL) + get(b"/tag.js", method=b"HEAD") + post(),
        *("204", "200", "204", "404 not_found", "200", "HEAD 200", "204"),
        stored=4,
    ),
    "cold and hot": answered(
        HEALTH + post() + HEALTH + post() + HEALTH, *("200", "204", "200", "204", "200"), stored=2
    ),
    "good and bad": answered(
        post() + BAD + post() + post(body=b"") + get(b"/p/i") + post(),
        *("204", "400 bad_json", "204", "400 empty_body", "405 method_not_allowed", "204"),
        stored=3,
    ),
    "forty": answered((post() + HEALTH) * 20, *("204", "200") * 20, stored=20),
    "three hundred": answered(post() * 300, *["204"] * 300, stored=300),
    "pixels and health, three hundred": answered((get(PIXEL) + HEALTH) * 150, *("200", "200") * 150, stored=150),
    "nothing behind close": answered(post(b"Connection: close") + post() + HEALTH, "204", stored=1, closes=True),
    "nothing behind a cold close": answered(get(b"/healthz", b"Connection: close") + post(), "200", closes=True),
    "nothing behind 1.0": answered(request(b"GET /healthz").replace(b"1.1", b"1.0") + post(), "200", closes=True),
    "nothing behind a close further on": answered(
        post() + post(b"Connection: close") + post(), "204", "204", stored=2, closes=True
    ),
    "garbage behind an event": answered(post() + b"\0\1\2", "204", "400 bad_http", stored=1, closes=True),
    "garbage behind two events": answered(post() * 2 + b"\0\1\2", "204", "204", "400 bad_http", stored=2, closes=True),
    "garbage behind a cold request": answered(HEALTH + b"\0\1\2", "200", "400 bad_http", closes=True),
    "a bad length behind an event": answered(post() + post(length=b"+1"), "204", "400 bad_http", stored=1, closes=True),
    "a head too large behind an event": answered(
        post() + post(*[b"a: x"] * 100), "204", "431 head_too_large", stored=1, closes=True
    ),
    "an event behind a body too large": answered(
        post(body=bytes((1 << 20) + 1)) + post(), "413 too_large", closes=True
    ),
    "an event behind a bomb": answered(
        post(GZIP, body=gzip.compress(bytes(2 << 20))) + post(), "413 too_large", closes=True
    ),
    "Expect": answered(post(b"Expect: 100-continue"), "100", "204", stored=1),
    "Expect in another case": answered(post(b"expect: 100-CONTINUE"), "100", "204", stored=1),
    "Expect something else": answered(post(b"Expect: a-miracle"), "204", stored=1),
    "Expect, and no body": answered(post(b"Expect: 100-continue", body=b""), "100", "400 empty_body"),
    "Expect on a cold route": answered(get(b"/healthz", b"Expect: 100-continue"), "200"),
    "Expect behind an event": answered(post() + post(b"Expect: 100-continue"), "204", "100", "204", stored=2),
}
