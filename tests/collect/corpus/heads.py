"""Request lines, targets, versions and header fields."""

from __future__ import annotations

from pinstream.serving import MAX_FIELDS, MAX_HEAD_BYTES
from tests.collect.conftest import OTHER, SHOP, VISITOR
from tests.collect.corpus.case import EVENT, HEALTH, PIXEL, Case, answered, broken, get, post, request, taken


def head_of(size: int) -> bytes:
    start, end = b"GET /healthz HTTP/1.1\r\nhost: x\r\na: ", b"\r\n\r\n"
    return start + b"x" * (size - len(start) - len(end)) + end


def fields(count: int) -> bytes:
    return b"GET /healthz HTTP/1.1\r\n" + b"".join(b"a%d: x\r\n" % n for n in range(count)) + b"\r\n"


def event_of_shop(*fields: bytes) -> bytes:
    return post(*fields, body=b'{"site":"2600000000001","event":"x","event_id":"1","consent":"yes"}')


HTTP_10 = post().replace(b"HTTP/1.1", b"HTTP/1.0")

CASES: dict[str, Case] = {
    # --- version ---
    "1.0": taken(HTTP_10, closes=True),
    "1.0 that asks to be kept": taken(HTTP_10.replace(b"Host: x", b"Connection: keep-alive"), closes=True),
    "1.2": broken(post().replace(b"HTTP/1.1", b"HTTP/1.2")),
    "1.10": broken(post().replace(b"HTTP/1.1", b"HTTP/1.10")),
    "11": broken(post().replace(b"HTTP/1.1", b"HTTP/11")),
    "lower case http": broken(post().replace(b"HTTP/1.1", b"http/1.1")),
    "blank after the version": broken(post().replace(b"HTTP/1.1", b"HTTP/1.1 ")),
    # --- connection ---
    "close": taken(post(b"Connection: close"), closes=True),
    "Close in a list": taken(post(b"Connection: x, Close"), closes=True),
    "keep-alive": taken(post(b"Connection: keep-alive")),
    "close, said about a refusal": answered(get(b"/nowhere", b"Connection: close"), "404 not_found", closes=True),
    # --- method ---
    "lower case post": broken(post().replace(b"POST", b"post")),
    "unknown method": broken(post().replace(b"POST", b"EVENT")),
    "PURGE": answered(post().replace(b"POST", b"PURGE"), "405 method_not_allowed"),
    "QUERY": answered(post().replace(b"POST", b"QUERY"), "405 method_not_allowed"),
    "PUT": answered(post().replace(b"POST", b"PUT"), "405 method_not_allowed"),
    "TRACE": answered(get(b"/p/i", method=b"TRACE"), "405 method_not_allowed"),
    "HEAD of a POST's path": answered(get(b"/p/i", method=b"HEAD"), "HEAD 405"),
    "OPTIONS": answered(get(b"/p/i", b"Origin: " + SHOP.encode(), method=b"OPTIONS"), "204"),
    "OPTIONS with a body": answered(post().replace(b"POST", b"OPTIONS"), "204"),
    "GET with a body": answered(get(b"/healthz", b"Content-Length: 3") + b"abc", "200"),
    "GET with an event as a body": answered(post().replace(b"POST", b"GET"), "405 method_not_allowed"),
    "pixel": answered(get(PIXEL), "200", stored=1),
    "pixel by HEAD": answered(get(PIXEL, method=b"HEAD"), "HEAD 200", stored=1),
    "pixel with a body": answered(get(PIXEL, b"Content-Length: %d" % len(EVENT)) + EVENT, "200", stored=1),
    "pixel by POST": taken(post(path=PIXEL, body=b"")),
    "pixel by POST without a length": taken(request(b"POST " + PIXEL, b"Host: x")),
    "pixel by POST with a body too": taken(post(path=PIXEL)),
    # --- target ---
    "absolute form": taken(post(path=b"http://x/p/i")),
    "absolute form of another host": taken(post(path=b"http://other.example:99/p/i?a=b")),
    "absolute pixel": answered(get(b"http://x" + PIXEL), "200", stored=1),
    "query on POST": taken(post(path=b"/p/i?a=b")),
    "empty query on POST": taken(post(path=b"/p/i?")),
    "two question marks": taken(post(path=b"/p/i??")),
    "fragment": taken(post(path=b"/p/i#a")),
    "percent-encoded letter": taken(post(path=b"/%70/i")),
    "percent-encoded slash": taken(post(path=b"/p%2Fi")),
    "percent-encoded /v1/events": taken(post(path=b"/v1/%65vents")),
    "percent-encoded pixel": answered(get(PIXEL.replace(b"/v3/", b"/%763/")), "200", stored=1),
    "percent-encoded query mark": answered(post(path=b"/p/i%3Fa"), "404 not_found"),
    "percent-encoded NUL": answered(post(path=b"/p/i%00"), "404 not_found"),
    "percent-encoded percent": answered(post(path=b"/p%252Fi"), "404 not_found"),
    "percent and rubbish": answered(post(path=b"/p/i%zz"), "404 not_found"),
    "percent-encoded byte that is no UTF-8": answered(post(path=b"/p/i%ff"), "404 not_found"),
    "dot segments": answered(post(path=b"/x/../p/i"), "404 not_found"),
    "double slash": answered(post(path=b"//p/i"), "404 not_found"),
    "slash at the end": answered(post(path=b"/p/i/"), "404 not_found"),
    "upper case path": answered(post(path=b"/P/I"), "404 not_found"),
    "path parameter": answered(post(path=b"/p/i;a=b"), "404 not_found"),
    "asterisk": answered(get(b"*", method=b"OPTIONS"), "404 not_found"),
    "authority": broken(get(b"x:443", method=b"CONNECT")),
    "no slash": broken(post(path=b"p/i")),
    "no target": broken(post(path=b"")),
    "raw byte in the target": broken(post(path=b"/p/i\xff")),
    "NUL in the target": broken(post(path=b"/p/i\0")),
    "tab for a blank": broken(post().replace(b" /p/i ", b"\t/p/i ")),
    "blank in the target": broken(post(path=b"/p/i x")),
    # --- line ends ---
    "empty lines before": taken(b"\r\n\r\n" + post()),
    "blank before": broken(b" " + post()),
    "bare LF everywhere": broken(post().replace(b"\r\n", b"\n")),
    "bare LF after the request line": broken(post().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n")),
    "bare LF after a field": broken(post(b"A: b\nC: d")),
    "bare LF at the end of the head": broken(post().replace(b"\r\n\r\n", b"\r\n\n")),
    "CR without LF": broken(post(b"A: b\rC: d")),
    "CR CR LF": broken(post(b"A: b\r")),
    "folded field": broken(post(b"A: b\r\n c")),
    "folded with a tab": broken(post(b"A: b\r\n\tc")),
    "blank before the first field": broken(post().replace(b"Host", b" Host")),
    # --- fields ---
    "NUL in a value": broken(post(b"A: b\0c")),
    "NUL in a name": broken(post(b"A\0: b")),
    "control sign in a value": broken(post(b"A: b\x01")),
    "DEL in a value": broken(post(b"A: \x7f")),
    "high bytes in a value": taken(post(b"A: \xff\xfe")),
    "high bytes in a name": broken(post(b"A\xff: b")),
    "blank before the colon": broken(post(b"A : b")),
    "tab before the colon": broken(post(b"A\t: b")),
    "no colon": broken(post(b"A")),
    "no name": broken(post(b": b")),
    "brace in a name": broken(post(b"X{}: 1")),
    "every sign a name may have": taken(post(b"X-!#$%&'*+.^_`|~09: 1")),
    "no value": taken(post(b"A:")),
    "blanks for a value": taken(post(b"A: \t ")),
    "odd case": taken(request(b"POST /p/i", b"hOsT: x", b"cOnTeNt-LeNgTh: %d" % len(EVENT), body=EVENT)),
    "100 fields": answered(fields(MAX_FIELDS), "200"),
    "101 fields": broken(fields(MAX_FIELDS + 1), "431 head_too_large"),
    "101 fields on a hot path": broken(post(*[b"a: x"] * (MAX_FIELDS - 1)), "431 head_too_large"),
    "head at its bound": answered(head_of(MAX_HEAD_BYTES), "200"),
    "head past its bound": broken(head_of(MAX_HEAD_BYTES + 1), "431 head_too_large"),
    "head far past its bound": broken(head_of(1 << 20), "431 head_too_large"),
    "target past the head's bound": broken(get(PIXEL + b"&a=" + b"x" * MAX_HEAD_BYTES), "431 head_too_large"),
    "query too long": answered(get(PIXEL + b"&a=" + b"x" * 60_000), "400 too_long"),
    # --- fields that mean something, twice ---
    "two cookies": taken(post(b"Cookie: ps_vid=" + VISITOR.encode(), b"Cookie: ps_vid=x")),
    "two cookies, the second ours": taken(post(b"Cookie: a=b", b"Cookie: ps_vid=" + VISITOR.encode())),
    "a cookie without a value": taken(post(b"Cookie:")),
    "two origins, the first known": taken(event_of_shop(b"Origin: " + SHOP.encode(), b"Origin: " + OTHER.encode())),
    "two origins, the second known": answered(
        event_of_shop(b"Origin: " + OTHER.encode(), b"Origin: " + SHOP.encode()), "403 wrong_origin"
    ),
    "an empty origin": answered(event_of_shop(b"Origin:"), "403 wrong_origin"),
    "an origin in another case": answered(event_of_shop(b"Origin: " + SHOP.upper().encode()), "403 wrong_origin"),
    "an origin with a line end's letters": answered(event_of_shop(b"Origin: x%0d%0aA: b"), "403 wrong_origin"),
    "an origin of high bytes": answered(event_of_shop(b"Origin: \xe9\xff"), "403 wrong_origin"),
    "two user agents, the second a crawler": taken(post(b"User-Agent: A", b"User-Agent: Googlebot/2.1")),
    "two user agents, the first a crawler": answered(post(b"User-Agent: Googlebot/2.1", b"User-Agent: A"), "200 bot"),
    "a user agent of high bytes": taken(post(b"User-Agent: \xe9\xff")),
    "two X-Forwarded-For": taken(post(b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-For: 192.0.2.2")),
    "two DNT": taken(post(b"DNT: 0", b"DNT: 1")),
    "two hosts": taken(post(b"Host: y")),
    "no host": taken(post().replace(b"Host: x\r\n", b"")),
    "two content types": taken(post(b"Content-Type: a", b"Content-Type: application/x-www-form-urlencoded")),
    "two authorizations": answered(
        post(b"Authorization: Bearer guess", b"Authorization: Bearer ps_test_key", path=b"/v1/events"), "403 bad_key"
    ),
    "health": answered(HEALTH, "200"),
    "the tag": answered(get(b"/tag.js", method=b"HEAD"), "HEAD 200"),
}
