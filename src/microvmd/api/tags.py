"""Tags of images and network connectors. MicroVMs cannot be tagged, which the ARN's pattern in the
model says already."""

from collections.abc import Mapping
from typing import Any

from microvmd.api.requests import RequestContext
from microvmd.control.connectors import Connectors
from microvmd.control.images import Images
from microvmd.model.identifiers import is_connector_arn

Request = Mapping[str, Any]


class TagHandlers:
    """The three operations of the older Lambda API that clients send for MicroVM images."""

    def __init__(self, images: Images, connectors: Connectors) -> None:
        self._images = images
        self._connectors = connectors

    async def tag_resource(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        owner = self._owner(request["Resource"])
        await owner.set_tags(context.account, request["Resource"], request["Tags"])
        return {}

    async def untag_resource(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        owner = self._owner(request["Resource"])
        await owner.remove_tags(context.account, request["Resource"], request["TagKeys"])
        return {}

    async def list_tags(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        owner = self._owner(request["Resource"])
        return {"Tags": dict(await owner.tags(context.account, request["Resource"]))}

    def _owner(self, arn: str) -> Images | Connectors:
        return self._connectors if is_connector_arn(arn) else self._images
