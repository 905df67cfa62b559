"""lambda-core: no connectors, no runtimes, each with the answer that its model has for it."""

from datetime import UTC, datetime

import pytest

from microvmd.api.connectors import ConnectorHandlers, RuntimeHandlers
from microvmd.api.errors import NotOffered
from microvmd.api.operations import CORE, load_operations
from microvmd.api.requests import RequestContext
from microvmd.model.errors import NotFound

_CONTEXT = RequestContext("123456789012", "us-east-1", "A", "r", datetime(2026, 7, 30, tzinfo=UTC))
_ARN = "arn:aws:lambda:us-east-1:123456789012:network-connector:net"


@pytest.mark.anyio
async def test_an_account_has_no_connectors() -> None:
    handlers = ConnectorHandlers()
    assert await handlers.list_network_connectors(_CONTEXT, {}) == {"NetworkConnectors": []}
    with pytest.raises(NotOffered):
        await handlers.create_network_connector(_CONTEXT, {"Name": "net"})
    for call in (
        handlers.get_network_connector,
        handlers.list_network_connector_versions,
        handlers.update_network_connector,
        handlers.delete_network_connector,
    ):
        for identifier in ("net", _ARN):
            with pytest.raises(NotFound, match=f"^Network connector not found for: {_ARN}$"):
                await call(_CONTEXT, {"Identifier": identifier})


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
