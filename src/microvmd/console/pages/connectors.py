"""Network connectors: what MicroVMs may reach, and what has become of each."""

import secrets

from starlette.responses import Response

from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.visit import Visit
from microvmd.model.errors import ApiError

PAGE_SIZE = 50


async def listed(visit: Visit) -> Response:
    marker = visit.query("marker") or None
    found = await visit.ask("ListNetworkConnectors", Marker=marker, MaxItems=PAGE_SIZE)
    return visit.render(
        "connectors/list.html",
        items=found.get("NetworkConnectors") or [],
        marker=found.get("NextMarker"),
        token=secrets.token_hex(16),
        account=visit.known.context.account,
    )


async def detail(visit: Visit) -> Response:
    found = await visit.ask("GetNetworkConnector", Identifier=visit.path("name"))
    return visit.render("connectors/detail.html", connector=found)


async def create(visit: Visit) -> Response:
    """CreateNetworkConnector for MicroVMs, with the subnets and groups that the operator maps. What
    is refused is told within the dialog, which keeps what was typed."""
    name = (await visit.field("name")).strip()
    egress = {
        "SubnetIds": _words(await visit.field("subnets")),
        "SecurityGroupIds": _words(await visit.field("groups")) or None,
        "AssociatedComputeResourceTypes": ["MicroVm"],
        "NetworkProtocol": "IPv4",
    }
    asked = {
        "Name": name,
        "Configuration": {"VpcEgressConfiguration": egress},
        "OperatorRole": (await visit.field("role")).strip() or None,
        "ClientToken": await visit.field("token") or None,
    }
    try:
        await visit.ask("CreateNetworkConnector", **asked)
    except ApiError as error:
        if not visit.is_part:
            raise
        return visit.render("microvms/refused.html", message=error.message)
    visit.notify(f"Connector {name} is being made.")
    return visit.go(f"/connectors/{name}")


async def delete(visit: Visit) -> Response:
    await visit.ask("DeleteNetworkConnector", Identifier=visit.path("name"))
    visit.notify("The connector is being deleted; MicroVMs that have it lose what it opened.")
    return visit.go("/connectors")


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


PAGE = Page(
    (
        PageRoute("/connectors", listed),
        PageRoute("/connectors", create, method="POST"),
        PageRoute("/connectors/{name}", detail),
        PageRoute("/connectors/{name}/live", detail, live=True),
        PageRoute("/connectors/{name}/delete", delete, method="POST"),
    ),
    Section.CONNECTORS,
)
