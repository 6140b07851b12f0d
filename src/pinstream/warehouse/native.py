"""ClickHouse's Native format as newer clients want it: pure, bytes in, bytes out.

A client that names its `client_protocol_version`, as clickhouse-go and with it Grafana's plugin do, is answered by a
server in blocks that begin with a block info, and whose columns say whether they are serialised in a way of their own.
The embedded engine writes neither, because it knows of no client. So its blocks are walked, and the two are put in.
Reference: ClickHouse documentation, "Native Format", and clickhouse-go's `lib/proto/block.go`.
"""

from __future__ import annotations

import re
from typing import Final

from pinstream.errors import QueryFailed

CUSTOM_SERIALIZATION: Final = 54454
"""From this client_protocol_version on blocks are wanted as `for_client` makes them."""

_INFO: Final = b"\x01\x00\x02\xff\xff\xff\xff\x00"
"""Field 1, is_overflows: no; field 2, bucket_num: -1; end."""
_NOT_CUSTOM: Final = b"\x00"
_SIZES: Final[dict[str, int]] = {
    **{f"{sign}Int{bits}": bits // 8 for sign in ("", "U") for bits in (8, 16, 32, 64, 128, 256)},
    **{"BFloat16": 2, "Float32": 4, "Float64": 8, "Bool": 1, "Nothing": 1, "UUID": 16, "IPv4": 4, "IPv6": 16},
    **{"Date": 2, "Date32": 4, "DateTime": 4, "DateTime64": 8, "Time": 4, "Time64": 8, "Enum8": 1, "Enum16": 2},
}
_NAMED: Final = re.compile(r"(?:\w+|`(?:[^`\\]|\\.)*`)\s+(?=[A-Z])")
_SIGN: Final = re.compile(r"'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.)*`|[(),]")


def for_client(body: bytes) -> bytes:
    """The blocks of `body` with a block info each, and a mark that no column has a serialisation of its own.

    Raises:
        QueryFailed: NOT_IMPLEMENTED for a column whose end cannot be found: JSON, Dynamic, Variant, aggregate states.
    """
    walk, parts = _Walk(body), list[bytes]()
    while walk.at < len(body):
        begin = walk.at
        columns, rows = walk.varint(), walk.varint()
        parts += [_INFO, body[begin : walk.at]]
        for _ in range(columns):
            begin = walk.at
            walk.text()
            kind = walk.text().decode()
            parts += [body[begin : walk.at], _NOT_CUSTOM]
            begin = walk.at
            if rows:
                walk.prefix(kind)
                walk.data(kind, rows)
            parts.append(body[begin : walk.at])
    return b"".join(parts)


class _Walk:
    """A place in the bytes, moved over what stands there; the engine wrote them, so they are well-formed."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.body[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def number(self) -> int:
        self.at += 8
        return int.from_bytes(self.body[self.at - 8 : self.at], "little")

    def text(self) -> bytes:
        size = self.varint()
        self.at += size
        return self.body[self.at - size : self.at]

    def skip(self, size: int) -> None:
        self.at += size

    def prefix(self, kind: str) -> None:
        """Over the versions of dictionaries, which stand before a column's data."""
        name, inner = _taken_apart(kind)
        if name == "LowCardinality":
            self.at += 8
        elif name in ("Array", "Nullable", "Map", "Tuple", "Nested", "SimpleAggregateFunction"):
            for each in inner:
                self.prefix(each)

    def data(self, kind: str, rows: int) -> None:
        """Over so many values of a type."""
        name, inner = _taken_apart(kind)
        if name == "String":
            for _ in range(rows):
                self.skip(self.varint())
        elif name == "Nullable":
            self.at += rows
            self.data(inner[0], rows)
        elif name in ("Array", "Map", "Nested"):
            self.lists(inner, rows)
        elif name == "Tuple" and inner:
            for each in inner:
                self.data(each, rows)
        elif name == "SimpleAggregateFunction":
            self.data(inner[-1], rows)
        elif name == "LowCardinality":
            self.dictionary(inner[0], rows)
        else:
            self.at += rows * _size(name, inner)

    def lists(self, inner: list[str], rows: int) -> None:
        """Where each list ends, then the values of all of them."""
        if rows:
            self.at += 8 * (rows - 1)
            values = self.number()
            for each in inner:
                self.data(each, values)

    def dictionary(self, kind: str, rows: int) -> None:
        """The width of an index, the keys, the indices."""
        if rows:
            width = 1 << (self.number() & 0xFF)
            name, inner = _taken_apart(kind)
            self.data(inner[0] if name == "Nullable" else kind, self.number())
            self.skip(width * self.number())


def _size(name: str, inner: list[str]) -> int:
    if name == "FixedString":
        return int(inner[0])
    if name == "Decimal":
        return next(size for size, digits in ((4, 9), (8, 18), (16, 38), (32, 76)) if int(inner[0]) <= digits)
    if name in _SIZES:
        return _SIZES[name]
    if name.startswith("Interval"):
        return 8
    raise QueryFailed(
        f"A column of type {name} is not offered to this client: cast it, such as toString(x). (NOT_IMPLEMENTED)",
        code=48,
    )


def _taken_apart(kind: str) -> tuple[str, list[str]]:
    """Name of a type and what stands in its brackets; of the parts of a tuple only their types."""
    name, bracket, rest = kind.partition("(")
    if not bracket:
        return kind, []
    parts, depth, begin = list[str](), 0, 0
    for sign in _SIGN.finditer(rest):
        depth += {"(": 1, ")": -1}.get(sign[0], 0)
        if (sign[0] == "," and depth == 0) or depth < 0:
            parts.append(rest[begin : sign.start()].strip())
            begin = sign.end()
    if name in ("Tuple", "Nested"):
        parts = [_NAMED.sub("", part, count=1) if _NAMED.match(part) else part for part in parts]
    return name, parts
