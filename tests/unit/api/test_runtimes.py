"""lambda-core's runtimes are not offered, whatever the model has of them."""

from datetime import UTC, datetime

import pytest

from microvmd.api.errors import NotOffered
from microvmd.api.operations import CORE, load_operations
from microvmd.api.requests import RequestContext
from microvmd.api.runtimes import RuntimeHandlers

_CONTEXT = RequestContext("123456789012", "us-east-1", "A", "r", datetime(2026, 7, 30, tzinfo=UTC))


@pytest.mark.anyio
async def test_every_runtime_operation_is_refused() -> None:
    handlers = RuntimeHandlers()
    names = [o.handler_name for o in load_operations() if o.service == CORE and "Runtime" in o.name]
    assert names
    for name in names:
        with pytest.raises(NotOffered):
            await getattr(handlers, name)(_CONTEXT, {})
    with pytest.raises(AttributeError):
        _ = handlers.run_microvm
