"""Every shape of both models, there and back, by botocore's own client.

Any legal value that a client sends reaches the handler as it was, through signature, routing,
parsing and validation; any legal result that a handler gives, the client reads. And a request with
a single fault is refused with AWS's own words for it.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.awsrequest import prepare_request_dict
from botocore.model import ServiceModel, StructureShape
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from microvmd.api.credentials import KeyRing
from microvmd.api.operations import SERVICES, Operation, from_model, load_operations
from microvmd.api.parse import parse_request
from microvmd.api.requests import RequestContext
from microvmd.api.routes import Router
from microvmd.api.serialize import serialize_response
from microvmd.api.service import create_app
from microvmd.api.validate import validate
from microvmd.model.errors import ValidationError
from tests.clients.inside import InsideClients
from tests.clients.live import KEY, REGION
from tests.shapes import faulty, legal, planted, refusal, sites

OPERATIONS = load_operations()
EMPTY = StructureShape("Empty", {"type": "structure", "members": {}})
LARGE = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


def _named(operation: Operation) -> str:
    return operation.name


@dataclass
class Scripted:
    """Handles every operation: keeps the request, gives the result that the test has put there."""

    request: dict[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._handle

    async def _handle(self, context: RequestContext, request: dict[str, Any]) -> Mapping[str, Any]:
        self.request = request
        return self.result


@dataclass
class Bench:
    """The whole API but for its handlers, and clients of it."""

    scripted: Scripted
    clients: dict[str, Any]

    def call(self, operation: Operation, request: dict[str, Any]) -> dict[str, Any]:
        client = self.clients[operation.service]
        found: dict[str, Any] = getattr(client, operation.handler_name)(**request)
        found.pop("ResponseMetadata")
        return found


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    scripted = Scripted()
    with asyncio.Runner() as runner:
        inside = InsideClients(create_app([scripted], KeyRing([KEY]), region=REGION), runner)
        yield Bench(scripted, {name: inside.client(name) for name, _ in SERVICES})


@pytest.mark.parametrize("operation", OPERATIONS, ids=_named)
@given(data=st.data())
@settings(max_examples=10, deadline=None, suppress_health_check=LARGE)
def test_there_and_back(bench: Bench, operation: Operation, data: st.DataObject) -> None:
    shape, answer = operation.input or EMPTY, operation.output or EMPTY
    sent, result = data.draw(legal(shape)), data.draw(legal(answer))
    unset = [name for name in answer.members if name not in result]
    nulls = data.draw(st.lists(st.sampled_from(unset), unique=True)) if unset else []
    bench.scripted.result = result | dict.fromkeys(nulls)
    assert bench.call(operation, sent) == result
    received = bench.scripted.request
    assert received == _as_it_arrives(shape, sent, received)


def _as_it_arrives(
    shape: StructureShape, sent: dict[str, Any], received: Mapping[str, Any]
) -> dict[str, Any]:
    """Clients make a client token where none is given."""
    expected = dict(sent)
    for name, member in shape.members.items():
        if member.metadata.get("idempotencyToken") and name not in sent:
            expected[name] = received[name]
    return expected


@pytest.mark.parametrize(
    "operation", [operation for operation in OPERATIONS if operation.input], ids=_named
)
def test_every_single_fault_is_named(operation: Operation) -> None:
    """On the validator itself: what is faulty in the URI would not come to this operation."""
    shape = operation.input
    assert shape is not None
    for site in sites(shape):

        @given(planted(shape, site.steps, faulty(site)))
        @settings(max_examples=3, deadline=None, phases=[Phase.generate], database=None)
        def refused(request: dict[str, Any]) -> None:
            with pytest.raises(ValidationError) as caught:
                validate(shape, request)
            assert caught.value.message == refusal(site, shape, request)  # noqa: B023

        refused()


_MOMENT = datetime(2026, 7, 30, 12, 34, 56, 789_000, tzinfo=UTC)
_OTHER_FORMS = {
    "version": "2.0",
    "metadata": {"protocol": "rest-json", "serviceId": "Other", "endpointPrefix": "other"},
    "operations": {
        "Try": {
            "name": "Try",
            "http": {"method": "POST", "requestUri": "/try/{when}", "responseCode": 200},
            "input": {"shape": "All"},
            "output": {"shape": "Body"},
        }
    },
    "shapes": {
        "Epoch": {"type": "timestamp"},
        "Iso": {"type": "timestamp", "timestampFormat": "iso8601"},
        "Blob": {"type": "blob"},
        "Double": {"type": "double"},
        "Flag": {"type": "boolean"},
        "Body": {
            "type": "structure",
            "members": {
                "epoch": {"shape": "Epoch"},
                "iso": {"shape": "Iso"},
                "blob": {"shape": "Blob"},
                "double": {"shape": "Double"},
            },
        },
        "All": {
            "type": "structure",
            "members": {
                "when": {"shape": "Iso", "location": "uri", "locationName": "when"},
                "since": {"shape": "Iso", "location": "querystring", "locationName": "since"},
                "until": {"shape": "Iso", "location": "header", "locationName": "x-until"},
                "flag": {"shape": "Flag", "location": "querystring", "locationName": "flag"},
                "epoch": {"shape": "Epoch"},
                "iso": {"shape": "Iso"},
                "blob": {"shape": "Blob"},
                "double": {"shape": "Double"},
            },
        },
    },
}


@given(st.binary(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
def test_forms_that_no_operation_has_yet(blob: bytes, double: float, flag: bool) -> None:
    """Both timestamp formats in every place, blobs and floats: the models move."""
    model = ServiceModel(_OTHER_FORMS, "other").operation_model("Try")
    operation = from_model(model)
    body = {"epoch": _MOMENT, "iso": _MOMENT, "blob": blob, "double": double}
    sent = {**body, "when": _MOMENT, "since": _MOMENT, "until": _MOMENT, "flag": flag}
    request = create_serializer("rest-json").serialize_to_request(sent, model)
    prepare_request_dict(request, "http://localhost", context={})
    path, _, query = request["url"].removeprefix("http://localhost").partition("?")
    headers = {name.lower(): str(value) for name, value in request["headers"].items()}
    found = parse_request(Router([operation]).match("POST", path), query, headers, request["body"])
    whole_seconds = dict.fromkeys(("when", "since", "until", "iso", "epoch"), _MOMENT)
    assert _to_seconds(found) == _to_seconds({**sent, **whole_seconds})
    wire = serialize_response(operation, body)
    parsed = create_parser("rest-json").parse(
        {"status_code": 200, "headers": {}, "body": wire.body}, operation.output or EMPTY
    )
    parsed.pop("ResponseMetadata")
    assert parsed == body


def _to_seconds(values: Mapping[str, Any]) -> dict[str, Any]:
    """botocore drops what is below a second when it sends a timestamp."""
    return {
        name: value.replace(microsecond=0) if isinstance(value, datetime) else value
        for name, value in values.items()
    }
