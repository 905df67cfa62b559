"""Operations by name: the document of a client, counted like a client's call."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from microvmd.api.audit import Call
from microvmd.api.errors import UnknownOperation
from microvmd.api.invoke import Invoke, unrestricted_only
from microvmd.api.operations import Operation
from microvmd.api.requests import RequestContext
from microvmd.model.caller import Caller
from microvmd.model.errors import (
    AccessDenied,
    InternalError,
    NotFound,
    StoreUnavailable,
    Unwritable,
    ValidationError,
)

pytestmark = pytest.mark.anyio
ROOT = RequestContext("1", "us-east-1", "A", "the-id", datetime.now(UTC), Caller.root("1"))
NOBODY = RequestContext("1", "us-east-1", "A", "the-id", datetime.now(UTC))


class _Played:
    """One handler, and what was counted."""

    def __init__(self, operations: dict[str, Operation]) -> None:
        self.counted: list[tuple[str, int]] = []
        self.calls: list[Call] = []
        self.asked: list[dict[str, Any]] = []
        self.fault: Exception | None = None
        self.result: dict[str, Any] = {"items": []}
        names = ("ListMicrovms", "GetMicrovm", "TerminateMicrovm")
        self.invoke = Invoke(
            operations,
            dict.fromkeys(names, self._handle),
            unrestricted_only,
            observe=lambda name, status, _: self.counted.append((name, status)),
            audit=self.calls.append,
        )

    async def _handle(self, context: RequestContext, request: dict[str, Any]) -> Mapping[str, Any]:
        if self.fault is not None:
            raise self.fault
        self.asked.append(request)
        return self.result


@pytest.fixture
def played(operations: dict[str, Operation]) -> _Played:
    return _Played(operations)


async def test_a_call_is_a_clients_call(played: _Played) -> None:
    found = await played.invoke.named(ROOT, "ListMicrovms", {"maxResults": 5, "nextToken": None})
    assert found == {"items": [], "nextToken": None}
    assert played.asked == [{"maxResults": 5}]
    with pytest.raises(ValidationError):
        await played.invoke.named(ROOT, "ListMicrovms", {"maxResults": 0})
    with pytest.raises(AccessDenied):
        await played.invoke.named(NOBODY, "ListMicrovms", {})
    played.fault = NotFound("none")
    with pytest.raises(NotFound):
        await played.invoke.named(ROOT, "ListMicrovms", {})
    assert played.counted == [("ListMicrovms", status) for status in (200, 400, 403, 404)]
    told = [(call.name, call.error, call.context) for call in played.calls]
    codes = (None, "ValidationException", "AccessDeniedException", "ResourceNotFoundException")
    who = (ROOT, ROOT, NOBODY, ROOT)
    assert told == [("ListMicrovms", code, w) for code, w in zip(codes, who, strict=True)]
    with pytest.raises(UnknownOperation):
        await played.invoke.named(ROOT, "Nothing", {})


async def test_a_store_that_does_not_work_is_told_and_recorded(played: _Played) -> None:
    played.fault = StoreUnavailable("the record cannot be written: its disk is full")
    with pytest.raises(Unwritable, match="its disk is full"):
        await played.invoke.named(ROOT, "ListMicrovms", {})
    assert played.counted == [("ListMicrovms", 500)]
    (call,) = played.calls
    assert call.error == "InternalServerException"
    assert "its disk is full" in (call.message or "")


async def test_faults_are_hidden(played: _Played) -> None:
    played.fault = RuntimeError("secret")
    with pytest.raises(InternalError, match="the-id") as caught:
        await played.invoke.named(ROOT, "ListMicrovms", {})
    assert "secret" not in caught.value.message
    assert played.counted == [("ListMicrovms", 500)]


async def test_a_page_that_asks_by_itself_is_recorded_when_it_fails_or_changes_something(
    played: _Played,
) -> None:
    await played.invoke.named(ROOT, "ListMicrovms", {}, live=True)
    assert played.calls == []
    assert played.counted == [("ListMicrovms", 200)]
    with pytest.raises(ValidationError):
        await played.invoke.named(ROOT, "ListMicrovms", {"maxResults": 0}, live=True)
    played.result = {}
    microvm = {"microvmIdentifier": "microvm-00000000-0000-0000-0000-000000000000"}
    await played.invoke.named(ROOT, "TerminateMicrovm", microvm, live=True)
    assert [call.name for call in played.calls] == ["ListMicrovms", "TerminateMicrovm"]
