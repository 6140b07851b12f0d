"""No plain e-mail address or phone number survives, whatever it hides in; everything else keeps its bytes."""

from __future__ import annotations

import time
from hashlib import sha256
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinstream.collect.scrub import MAX_LAYERS, scrub_data, scrub_text, scrub_url

ANN = sha256(b"ann@shop.de").hexdigest()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("", ""),
        ("red shoes, size 42 @ home", "red shoes, size 42 @ home"),
        ("ann@shop.de", ANN),
        ("mail Ann@Shop.de, now", f"mail {ANN}, now"),
        ("'ann@shop.de'", f"'{ANN}'"),
        ("<ann@shop.de>.", f"<{ANN}>."),
        ("a=ann@shop.de&b=ann@shop.de", f"a={ANN}&b={ANN}"),
        ("mailto:ann@shop.de", f"mailto:{ANN}"),
        ("call +49 151 234-56 78 now", "call  now"),
        ("+4915123456", ""),
        ("4915123456", "4915123456"),
        ("1 + 1", "1 + 1"),
        ("x@y", "x@y"),
        ("ann%40shop.de", ANN),
        ('{"email":"ann@shop.de"}', f'{{"email":"{ANN}"}}'),
        ("https://u:p@shop.de/?e=ann%40shop.de", f"https://shop.de/?e={ANN}"),
    ],
)
def test_texts(text: str, clean: str) -> None:
    assert scrub_text(text) == clean


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("https://shop.de/?a=b+c&d=%C3%A9&%zz", "https://shop.de/?a=b+c&d=%C3%A9&%zz"),
        ("https://shop.de/?e=ann%40shop.de&x=%41", f"https://shop.de/?e={ANN}&x=%41"),
        ("https://shop.de/ann@shop.de/x#ann%40shop.de", f"https://shop.de/{ANN}/x#{ANN}"),
        ("https://shop.de/?ann@shop.de=1", f"https://shop.de/?{ANN}=1"),
        ("https://shop.de/?phone=0151+2345678", "https://shop.de/?phone="),
        ("https://shop.de/?user%5Bmobile%5D=%2B49151234567", "https://shop.de/?user%5Bmobile%5D="),
        ("https://shop.de/?tel=015123456&hotel=015123456", "https://shop.de/?tel=&hotel=015123456"),
        ("https://shop.de/?q=%2B49%20151%20234567", "https://shop.de/?q="),
        ("https://shop.de/?q=size+12345678", "https://shop.de/?q=size+12345678"),
        ("https://ann:secret@shop.de:8080/", "https://shop.de:8080/"),
        ("https://a@b@shop.de/", "https://shop.de/"),
        ("http://[", "http://["),
        ("not a url", "not a url"),
    ],
)
def test_urls(url: str, clean: str) -> None:
    assert scrub_url(url) == clean


def test_a_url_within_a_url() -> None:
    for layers in range(MAX_LAYERS + 1):
        inner = "https://shop.de/?e=ann@shop.de&k=1"
        for _ in range(layers):
            inner = quote(inner, safe="")
        clean = scrub_url("https://login.de/?next=" + inner)
        for _ in range(layers):
            clean = unquote(clean)
        assert clean == f"https://login.de/?next=https://shop.de/?e={ANN}&k=1"


def test_data_is_scrubbed_in_keys_values_and_under_a_phones_name() -> None:
    data = {
        "ann@shop.de": ["ann@shop.de", {"deep": "ann@shop.de"}],
        "phone": "0151 2345678",
        "userTel": ["015123456", "no number"],
        "mobile": 4915123456789,
        "iphone_model": "15 Pro",
        "hotel": "015123456",
        "price": 12.5,
        "phone_known": True,
    }
    assert scrub_data(data) == {
        ANN: [ANN, {"deep": ANN}],
        "phone": "",
        "userTel": ["", "no number"],
        "mobile": None,
        "iphone_model": "15 Pro",
        "hotel": "015123456",
        "price": 12.5,
        "phone_known": True,
    }


@pytest.mark.parametrize(
    "text",
    [
        "a" * 8000 + "@",
        "a@" * 4000,
        "a@b." * 2000,
        "@" * 8000,
        "+1 " * 2700,
        "%40" * 2700,
        "a%40b.de?" * 900,
        "tel=" * 2000,
        "http://" + "@" * 8000,
        "+" * 8000,
        "a." * 4000 + "@" + "b." * 4000,
        "%25" * 2700,
        "=&" * 4000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    scrub_text(text)
    scrub_url(text)
    assert time.process_time() - started < 0.25


def _locals() -> st.SearchStrategy[str]:
    return st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,20}[a-z0-9]", fullmatch=True)


@given(
    before=st.text(max_size=20), local=_locals(), after=st.sampled_from(["", " ", ",", "?x", "&y=1", ">", '"', "\n"])
)
def test_no_address_survives_in_any_text(before: str, local: str, after: str) -> None:
    address = f"{local}@mail.shop.de"
    for text in (f"{before} {address}{after}", f"https://x.de/?a={quote(before)}&e={quote(address)}{after}"):
        for scrub in (scrub_text, scrub_url):
            assert address not in unquote(scrub(text))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_scrubbing_twice_changes_nothing_more(data: Any) -> None:
    once = scrub_data(data)
    assert scrub_data(once) == once
