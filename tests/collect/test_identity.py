"""Identifiers as Pinterest's Conversions API wants them; each expected hash is SHA-256 of the text beside it."""

from __future__ import annotations

from hashlib import blake2b, sha256

import pytest

from pinstream.collect import identity
from pinstream.collect.identity import Person, identify, visitor_id
from pinstream.errors import Refused

MD5 = "d41d8cd98f00b204e9800998ecf8427e"
SHA1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709"


def sha(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def fault(key: str, *values: str, region: str = "") -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        identify({key: values}, region, "$.user")
    return caught.value.reason, caught.value.field


@pytest.mark.parametrize(
    ("key", "sent", "hashed"),
    [
        ("em", " Ann.Miller@Shop.Example ", "ann.miller@shop.example"),
        ("em", "ann miller@\tshop.example", "annmiller@shop.example"),
        ("em", "ÄNN@exämple.de", "änn@exämple.de"),
        ("ph", "+49 (151) 234-567 89", "4915123456789"),
        ("ph", "0049 151 23456789", "4915123456789"),
        ("ph", "0151 / 23456789", "4915123456789"),
        ("ph", "4915123456789", "4915123456789"),
        ("ph", "+1 (415) 555-2671", "14155552671"),
        ("fn", " ANN ", "ann"),
        ("ln", "Müller", "müller"),
        ("ge", "Female", "f"),
        ("ge", "M", "m"),
        ("ge", "non-binary", "n"),
        ("db", "1990-02-28", "19900228"),
        ("db", "19900228", "19900228"),
        ("db", "1990/02/28", "19900228"),
        ("ct", "St. John's", "stjohns"),
        ("ct", "New York", "newyork"),
        ("st", "CA", "ca"),
        ("zp", "99999", "99999"),
        ("zp", "SW1A 1AA", "sw1a1aa"),
        ("country", "US", "us"),
        ("external_id", " Customer-17 ", "customer-17"),
        ("hashed_maids", "EA7583CD-A667-48BC-B806-42ECB2B48606", "ea7583cd-a667-48bc-b806-42ecb2b48606"),
    ],
)
def test_a_plain_value_is_normalised_then_hashed(key: str, sent: str, hashed: str) -> None:
    assert identity.hashed(key, sent, "DE", "$") == sha(hashed)


@pytest.mark.parametrize(("text", "start"), [("us", "79adb2a2"), ("ca", "69590970"), ("99999", "fd5f56b4")])
def test_published_vectors(text: str, start: str) -> None:
    key = "zp" if text.isdigit() else "country"
    assert identity.hashed(key, text.upper(), "", "$").startswith(start)


@pytest.mark.parametrize("key", ["em", "ph", "external_id", "fn", "country", "hashed_maids"])
def test_sha256_passes_in_lower_case_and_other_hashes_do_not(key: str) -> None:
    assert identity.hashed(key, f" {sha('x').upper()} ", "", "$") == sha("x")
    assert fault(key, MD5) == ("bad_hash", f"$.user.{key}[0]")
    assert fault(key, SHA1.upper()) == ("bad_hash", f"$.user.{key}[0]")


@pytest.mark.parametrize(
    "leftover",
    [
        "undefined",
        "NULL",
        " none ",
        "n/a",
        "NaN",
        "[object Object]",
        "{{ customer.email }}",
        "{% if x %}a@b.de{% endif %}",
        "<user_email_address>",
        "${email}",
        "%%email%%",
        "(not set)",
        sha("undefined"),
        sha("null"),
        sha("<user_email_address>"),
        sha("NULL"),
        sha("[object Object]"),
    ],
)
def test_a_templates_leftover_is_refused(leftover: str) -> None:
    for key in ("em", "external_id", "ph", "fn"):
        assert fault(key, leftover) == ("bad_value", f"$.user.{key}[0]")


def test_the_hash_of_an_empty_text_is_as_absent_as_the_text() -> None:
    found = identity.identify({"em": (sha(""), "ann@shop.de"), "ph": (f" {sha('').upper()} ",)}, "", "$.user")
    assert (found.em, found.ph) == (sha("ann@shop.de"), "")


def test_the_hash_that_pinterests_helper_flags_is_among_them() -> None:
    assert sha("<user_email_address>").startswith("24aba99b")


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("em", "ann"), ("em", "ann@shop"), ("em", "ann@@shop.de"), ("em", "@shop.de"), ("em", "ann@.de"),
        ("em", "ann@shop..de"), ("em", "a" * 65 + "@shop.de"), ("ph", "151"), ("ph", "call me"), ("ph", "+0"),
        ("ge", "unknown"), ("db", "1990-02-30"), ("db", "28"), ("st", "Bavaria"), ("country", "Germany"), ("ct", "!"),
    ],
)  # fmt: skip
def test_what_is_no_such_identifier_is_refused(key: str, sent: str) -> None:
    assert fault(key, sent, region="DE") == ("bad_value", f"$.user.{key}[0]")


def test_an_address_is_bounded() -> None:
    longest = "a" * 64 + "@" + ".".join(["d" * 63] * 4)
    assert len(longest) == identity.MAX_EMAIL_CHARS
    assert identity.normal_email(longest) == longest
    assert identity.normal_email(longest + "d") == ""


def test_a_phone_without_country_code_needs_the_sites_region() -> None:
    assert fault("ph", "0151 23456789") == ("bad_value", "$.user.ph[0]")
    assert identity.hashed("ph", "0151 23456789", "DE", "$") == sha("4915123456789")


def test_the_first_valid_value_is_taken_and_all_are_remembered() -> None:
    person = identify({"em": ("undefined", "", "B@x.de", "a@x.de"), "fn": ("Ann",), "ph": ()}, "", "$.user")
    assert person == Person(
        em=sha("b@x.de"), match_keys={"fn": sha("ann")}, hashes=frozenset({sha("b@x.de"), sha("a@x.de")})
    )


def test_the_first_fault_is_told_if_none_is_valid() -> None:
    assert fault("em", "", MD5, "undefined") == ("bad_hash", "$.user.em[1]")


def test_empty_values_say_nothing() -> None:
    assert identify({"em": ("", "  "), "external_id": ()}, "", "$.user") == identity.NOBODY


def test_the_visitor_is_known_by_the_best_identity_there_is() -> None:
    everything = Person(em="e" * 64, external_id="f" * 64)

    def number(text: str) -> int:
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")

    assert visitor_id(7, visitor="uuid", person=everything, epik="k") == number("7:v:uuid")
    assert visitor_id(7, visitor="", person=everything, epik="k") == number(f"7:x:{'f' * 64}")
    assert visitor_id(7, visitor="", person=Person(em="e" * 64), epik="k") == number(f"7:e:{'e' * 64}")
    assert visitor_id(7, visitor="", person=Person(), epik="k") == number("7:k:k")
    assert visitor_id(7, visitor="", person=Person(), epik="") == 0


def test_the_same_visitor_is_another_one_on_another_site() -> None:
    assert visitor_id(1, visitor="u", person=Person(), epik="") != visitor_id(2, visitor="u", person=Person(), epik="")
