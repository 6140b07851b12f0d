"""What is no HTTP/1.1, or wants to become something else."""

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
    get,
    post,
    unmeasured,
)

UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
WEBSOCKET = (*UPGRADE, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")

CASES: dict[str, Case] = {
    "TLS": broken(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "HTTP/2": broken(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"),
    "SSH": broken(b"SSH-2.0-client\r\n"),
    "an answer": broken(b"HTTP/1.1 200 OK\r\n\r\n"),
    "a proxy's line": broken(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + HEALTH),
    "every byte": broken(bytes(range(256))),
    "JSON": broken(b'{"site":"s","event":"x"}\r\n\r\n'),
    "zeros": broken(bytes(64)),
    "websocket": answered(get(b"/p/i", *WEBSOCKET), "405 method_not_allowed"),
    "websocket on a pixel": answered(get(PIXEL, *WEBSOCKET), "200", stored=1),
    "a request behind a websocket": answered(get(b"/healthz", *WEBSOCKET) + HEALTH, "200", "200"),
    "h2c": answered(get(PIXEL, *H2C), "200", stored=1),
    "an event that offers h2c": answered(post(*H2C), "204", stored=1),
    "a request in the body of an Upgrade": answered(post(*UPGRADE, body=post()), "400 bad_json"),
    "an event in chunks that offers h2c": answered(unmeasured(CHUNKED, *H2C, body=chunk(EVENT) + END), "204", stored=1),
    "events behind an offer of h2c": answered(
        post() + post(*H2C) + post() + get(PIXEL, *H2C) + HEALTH, "204", "204", "204", "200", "200", stored=4
    ),
    "an offer of h2c on a cold route": answered(post(*H2C, path=b"/nowhere") + HEALTH, "404 not_found", "200"),
    "an offer of h2c, and close": answered(post(*H2C, b"Connection: close") + post(), "204", stored=1, closes=True),
    "an offer of h2c with a bad chunk": broken(unmeasured(CHUNKED, *H2C, body=b"zz\r\n")),
    "an offer of h2c with two lengths": broken(post(*H2C, b"Content-Length: 3")),
    "an offer of h2c and Expect": answered(post(*H2C, b"Expect: 100-continue"), "100", "204", stored=1),
    "an authority behind a cold request": answered(
        HEALTH + get(b"x:443", method=b"CONNECT"), "200", "400 bad_http", closes=True
    ),
    "an authority behind an event": answered(
        post() + get(b"x:443", method=b"CONNECT"), "204", "400 bad_http", stored=1, closes=True
    ),
    "Upgrade without Connection": answered(post(b"Upgrade: h2c"), "204", stored=1),
}
