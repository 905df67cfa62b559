"""Tags of images. MicroVMs cannot be tagged, which the ARN's pattern in the model says already."""

from collections.abc import Mapping
from typing import Any

from microvmd.api.requests import RequestContext
from microvmd.control.images import Images

Request = Mapping[str, Any]


class TagHandlers:
    """The three operations of the older Lambda API that clients send for MicroVM images."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def tag_resource(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        await self._images.set_tags(context.account, request["Resource"], request["Tags"])
        return {}

    async def untag_resource(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        await self._images.remove_tags(context.account, request["Resource"], request["TagKeys"])
        return {}

    async def list_tags(self, context: RequestContext, request: Request) -> Mapping[str, Any]:
        view = await self._images.get(context.account, request["Resource"])
        return {"Tags": dict(view.image.tags)}
