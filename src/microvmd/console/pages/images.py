"""Images: the list, one image with its versions, and what can be done to them."""

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.visit import Visit
from microvmd.model.errors import ApiError, ValidationError
from microvmd.model.identifiers import ImageArn

PAGE_SIZE = 50
BUSY = frozenset({"CREATING", "UPDATING", "DELETING"})
Item = dict[str, Any]


def arn_of(visit: Visit, name: str) -> str:
    return str(ImageArn("aws", visit.console.region, visit.known.identity.account, name))


async def listed(visit: Visit) -> Response:
    return visit.render("images/list.html", **await _rows(visit))


async def rows(visit: Visit) -> Response:
    """The same rows again, or nothing when they are those that the page has."""
    found = await _rows(visit)
    if found["digest"] == visit.query("seen"):
        return Response(status_code=204)
    return visit.render("images/rows.html", **found)


async def _rows(visit: Visit) -> dict[str, Any]:
    wanted = visit.query("name").strip()
    page = await visit.ask(
        "ListMicrovmImages",
        maxResults=PAGE_SIZE,
        nameFilter=wanted or None,
        nextToken=visit.query("after") or None,
    )
    return {
        "images": page["items"],
        "next": page["nextToken"],
        "wanted": wanted,
        "after": visit.query("after"),
        "digest": _digest(page["items"]),
    }


async def one(visit: Visit) -> Response:
    found = await _image(visit)
    return visit.render("images/one.html", **found, **await _versions(visit, found))


async def one_live(visit: Visit) -> Response:
    """The same again, or nothing: whatever changes, changes an image or a version."""
    found = await _image(visit)
    if found["digest"] == visit.query("seen"):
        return Response(status_code=204)
    return visit.render("images/one_live.html", **found, **await _versions(visit, found))


async def _image(visit: Visit) -> dict[str, Any]:
    arn = arn_of(visit, visit.path("name"))
    image = await visit.ask("GetMicrovmImage", imageIdentifier=arn)
    versions = await visit.ask(
        "ListMicrovmImageVersions", imageIdentifier=arn, maxResults=PAGE_SIZE
    )
    newest_first = sorted(versions["items"], key=lambda one: float(one["createdAt"]), reverse=True)
    return {
        "image": image,
        "listed": newest_first,
        "more": versions["nextToken"] is not None,
        "busy": image["state"] in BUSY,
        "digest": _digest([image, newest_first]),
    }


async def _versions(visit: Visit, found: Mapping[str, Any]) -> dict[str, Any]:
    """Each version with its build."""
    arn, listed = arn_of(visit, visit.path("name")), found["listed"]
    builds = await asyncio.gather(
        *(_build_if_known(visit, arn, item["imageVersion"]) for item in listed)
    )
    return {
        "versions": list(zip(listed, builds, strict=True)),
        "newest": next(iter(listed), None),
    }


async def build_of(visit: Visit, arn: str, version: str) -> Item | None:
    """The newest build of a version with its snapshot sizes."""
    members = {"imageIdentifier": arn, "imageVersion": version}
    builds = await visit.ask("ListMicrovmImageBuilds", **members)
    if not builds["items"]:
        return None
    found = builds["items"][0]
    names = ("buildId", "architecture", "chipset", "chipsetGeneration")
    return await visit.ask(
        "GetMicrovmImageBuild", **members, **{name: found[name] for name in names}
    )


async def _build_if_known(visit: Visit, arn: str, version: str) -> Item | None:
    """A version that is just being deleted, or that its reader may not ask, has none to show."""
    try:
        return await build_of(visit, arn, version)
    except ApiError:
        return None


async def set_status(visit: Visit) -> Response:
    name, version = visit.path("name"), visit.path("version")
    status = await visit.field("status")
    await visit.ask(
        "UpdateMicrovmImageVersion",
        imageIdentifier=arn_of(visit, name),
        imageVersion=version,
        status=status,
    )
    done = "active: new MicroVMs may use it" if status == "ACTIVE" else "inactive"
    visit.notify(f"Version {version} is {done}.")
    return visit.go(f"/images/{name}")


async def delete_version(visit: Visit) -> Response:
    name, version = visit.path("name"), visit.path("version")
    await visit.ask(
        "DeleteMicrovmImageVersion", imageIdentifier=arn_of(visit, name), imageVersion=version
    )
    visit.notify(f"Version {version} is being deleted.")
    return visit.go(f"/images/{name}")


async def delete(visit: Visit) -> Response:
    """With the name typed once more: it takes all versions along."""
    name = visit.path("name")
    if await visit.field("confirm") != name:
        raise ValidationError("Type the name of the image to delete it: nothing was done.")
    await visit.ask("DeleteMicrovmImage", imageIdentifier=arn_of(visit, name))
    visit.notify(f"{name} is being deleted with all its versions.")
    return visit.go("/images")


def _digest(shown: Mapping[str, Any] | list[Any]) -> str:
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


_VERSION = "/images/{name}/versions/{version}"
PAGE = Page(
    (
        PageRoute("/images", listed),
        PageRoute("/images-rows", rows, live=True),
        PageRoute("/images/{name}", one),
        PageRoute("/images/{name}/live", one_live, live=True),
        PageRoute("/images/{name}/delete", delete, method="POST"),
        PageRoute(f"{_VERSION}/status", set_status, method="POST"),
        PageRoute(f"{_VERSION}/delete", delete_version, method="POST"),
    ),
    Section.IMAGES,
)
