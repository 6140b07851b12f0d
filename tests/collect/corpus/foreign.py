"""What is no HTTP/1.1, or wants to become something else."""

from __future__ import annotations

from tests.collect.corpus.case import BOTH, HEALTH, PIXEL, Case, answered, broken, faulty, get, post

UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")
WEBSOCKET = (*UPGRADE, b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
SKIPPED = "the parser takes what follows an Upgrade for another protocol: the body is lost, or read as a request"

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
    "a request behind a websocket": faulty(
        answered(get(b"/healthz", *WEBSOCKET) + HEALTH, "200", "200"), SKIPPED, *BOTH
    ),
    "h2c": answered(get(PIXEL, *H2C), "200", stored=1),
    "an event that offers h2c": faulty(answered(post(*H2C), "204", stored=1), SKIPPED, *BOTH),
    "a request in the body of an Upgrade": faulty(
        answered(post(*UPGRADE, body=post()), "400 bad_json"), SKIPPED, *BOTH
    ),
    "Upgrade without Connection": answered(post(b"Upgrade: h2c"), "204", stored=1),
}
