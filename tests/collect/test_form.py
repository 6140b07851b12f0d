"""Query strings and forms."""

from __future__ import annotations

import pytest

from pinstream.collect import form
from pinstream.errors import Refused


@pytest.mark.parametrize(
    ("query", "data"),
    [
        (b"a=1&b=two+words&c=%C3%A9", {"a": "1", "b": "two words", "c": "é"}),
        (b"a=1&a=2", {"a": "2"}),
        (b"a&b=", {"a": "", "b": ""}),
        (b"&&a=1&", {"a": "1"}),
        (b"=1", {"_": "1"}),
        (b"ed[value]=42.50&ed[currency]=EUR", {"ed": {"value": "42.50", "currency": "EUR"}}),
        (b"ed%5Bvalue%5D=1", {"ed": {"value": "1"}}),
        (b"l[0][id]=A&l[1][id]=B&l[0][n]=2", {"l": [{"id": "A", "n": "2"}, {"id": "B"}]}),
        (b"l[10]=b&l[9]=a", {"l": ["a", "b"]}),
        (b"em[]=x&em[]=y", {"em": ["x", "y"]}),
        (b"a[b=1&a]=2&[c]=3", {"a[b": "1", "a]": "2", "[c]": "3"}),
        (b'ed={"value":1}', {"ed": '{"value":1}'}),
    ],
)
def test_a_form_becomes_nested_data(query: bytes, data: dict[str, object]) -> None:
    assert form.parse(query) == data


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (b"a=%ff", "bad_text"),
        (b"a=%ed%a0%80", "bad_text"),
        (b"a=\xff", "bad_text"),
        (b"a=1&a[b]=2", "bad_type"),
        (b"a[b]=2&a=1", "bad_type"),
        (b"a[b]=1&a[b][c]=2", "bad_type"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(query: bytes, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        form.parse(query)
    assert caught.value.reason == reason


def test_fields_are_bounded() -> None:
    at_bound = b"&".join(b"k%d=v" % n for n in range(form.MAX_FIELDS))
    assert len(form.parse(at_bound)) == form.MAX_FIELDS
    with pytest.raises(Refused, match="fields") as caught:
        form.parse(at_bound + b"&one=more")
    assert caught.value.reason == "too_many"


def test_depth_is_bounded() -> None:
    name = b"a" + b"[b]" * (form.MAX_FORM_DEPTH - 1)
    assert form.parse(name + b"=1")
    with pytest.raises(Refused) as caught:
        form.parse(name + b"[b]=1")
    assert caught.value.reason == "too_deep"


def test_names_are_bounded() -> None:
    assert form.parse(b"k" * form.MAX_KEY_CHARS)
    with pytest.raises(Refused) as caught:
        form.parse(b"k" * (form.MAX_KEY_CHARS + 1))
    assert caught.value.reason == "too_long"
