"""The OpenAPI document: it is valid, it is what is served, and schemathesis finds nothing that contradicts it."""

from __future__ import annotations

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from pinstream.collect import wire
from pinstream.collect.openapi import document
from pinstream.event import REASONS, LineItem, RawEvent
from tests.collect.conftest import API_KEY, SNAPSHOT, Running, running
from tests.collect.corpus.case import TINY
from tests.collect.test_fuzz_exact import EXACT

HOLDING = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    schemathesis.checks.not_a_server_error,
]


def of_tiny(found: dict[str, Any]) -> dict[str, Any]:
    """The document of a server with one site, whose senders agree, name nobody and nest nothing: it takes all.

    How deep and how large props may be is what a schema cannot say.
    """
    schemas = found["components"]["schemas"]
    schemas["Value"] = {"anyOf": [{"$ref": "#/components/schemas/Text"}, {"type": ["number", "boolean", "null"]}]}
    for name in ("SingleEvent", "Batch", "Engagements"):
        fields = schemas[name]["properties"]
        fields["site"], fields["consent"] = {"const": TINY.tag_id}, {"const": "yes"}
    schemas["User"] = {
        "type": "object",
        "properties": {"em": {"const": "ann@shop.example"}},
        "additionalProperties": False,
    }
    return found


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    snapshot = msgspec.structs.replace(SNAPSHOT, sites=(*SNAPSHOT.sites, TINY))
    async with running(tmp_path_factory.mktemp("journal"), snapshot=snapshot) as found:
        yield found


def test_the_document_is_valid() -> None:
    validate(document())


def test_it_is_printed() -> None:
    done = subprocess.run([sys.executable, "-m", "pinstream", "openapi", "--json"], capture_output=True, check=True)
    assert json.loads(done.stdout) == document()


@pytest.mark.asyncio(loop_scope="module")
async def test_it_is_served(edge: Running) -> None:
    async with httpx.AsyncClient(base_url=edge.base_url) as client:
        found = await client.get("/openapi.json")
        assert (found.headers["content-type"], found.json()) == ("application/json", document())
        assert (await client.head("/openapi.json")).status_code == 200


def test_it_names_every_field_and_every_reason() -> None:
    schemas = document()["components"]["schemas"]
    for name in ("SingleEvent", "Event"):
        assert schemas[name]["properties"].keys() >= set(RawEvent.__struct_fields__)
    for name in ("SingleEvent", "Batch"):
        assert schemas[name]["properties"].keys() >= set(wire.Envelope.__struct_fields__) - {"user_path"}
    assert schemas["LineItem"]["properties"].keys() == set(LineItem.__struct_fields__)
    assert schemas["User"]["properties"].keys() == set(wire.USER_KEYS)
    described = json.dumps(document()["components"]["responses"])
    assert all(f"`{reason}`" in described for reason, (status, _) in REASONS.items() if status >= 400)


@pytest.mark.parametrize("body", EXACT, ids=lambda body: body.get("events", [body])[0]["event"])
def test_what_is_read_in_one_step_is_as_described(body: Any) -> None:
    name = "Batch" if "events" in body else "SingleEvent"
    OAS31Validator({"$ref": f"#/components/schemas/{name}", "components": document()["components"]}).validate(body)


def operations(found: dict[str, Any]) -> list[Any]:
    return [operation.ok() for operation in schemathesis.openapi.from_dict(found).get_all_operations()]  # type: ignore[union-attr]


def attempts(edge: Running, operation: Any, mode: GenerationMode, *more: Any, examples: int) -> None:
    """Send what fits the description (or does not), and look at the answers."""
    headers = {"x-api-key": API_KEY} if "engagements" in operation.path else {}

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=mode))
    def attempt(case: Any) -> None:
        response = case.call(base_url=edge.base_url, headers=headers, timeout=20)
        case.validate_response(response, checks=[*HOLDING, *more])

    attempt()


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
        for operation in operations(copy.deepcopy(document()))
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation.body or operation.query  # else nothing can be wrong
    ],
)
async def test_every_answer_is_as_described(edge: Running, operation: Any, mode: GenerationMode) -> None:
    await asyncio.to_thread(attempts, edge, operation, mode, examples=15)


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "operation",
    [
        found
        for found in operations(of_tiny(copy.deepcopy(document())))
        if found.method == "post" and found.path != "/v3/"
    ],
    ids=lambda operation: operation.label,
)
async def test_what_is_as_described_is_taken(edge: Running, operation: Any) -> None:
    more = [checks.positive_data_acceptance]
    await asyncio.to_thread(attempts, edge, operation, GenerationMode.POSITIVE, *more, examples=40)
