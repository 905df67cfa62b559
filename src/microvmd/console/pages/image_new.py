"""The creation workflow: one form in steps, for a new image or another version of one."""

import asyncio
import re
import secrets
import zipfile
from typing import IO, Any

from starlette.responses import JSONResponse, Response

from microvmd.api.requests import bounded
from microvmd.console.image_form import STEPS, ImageForm, check_rows, networks, step_of
from microvmd.console.page import Page, PageRoute, Section
from microvmd.console.pages.images import arn_of
from microvmd.console.visit import Visit
from microvmd.model.errors import AccessDenied, ApiError, ValidationError
from microvmd.model.size import DEFAULT_MEMORY_MIB, Size

DOCKERFILE = "Dockerfile"
UPLOAD_SECONDS = 1800.0
_PIECE = 1 << 20
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


async def form(visit: Visit) -> Response:
    """Empty, or filled with the version that a new one is made of."""
    of, version = visit.query("of"), visit.query("version")
    bases = await _bases(visit)
    token = secrets.token_urlsafe(16)
    if not of:
        made = ImageForm.fresh(visit.known.identity.account, next(iter(bases), ""), token)
        return _shown(visit, made, bases)
    found = await visit.ask(
        "GetMicrovmImageVersion", imageIdentifier=arn_of(visit, of), imageVersion=version
    )
    return _shown(visit, ImageForm.of_version(of, found, token), bases, of=of)


async def create(visit: Visit) -> Response:
    """Make it, or show the form again with everything that was typed and what is the matter."""
    of = visit.query("of")
    made = ImageForm.of_fields(await visit.form())
    try:
        answer = await _create(visit, made, of)
    except ApiError as problem:
        # Nothing was made, so what is mended is another request.
        made.token = secrets.token_urlsafe(16)
        return _shown(visit, made, await _bases(visit), of=of, problem=problem)
    name = answer["imageArn"].rpartition(":")[2]
    return visit.go(f"/images/{name}/versions/{answer['imageVersion']}")


async def _create(visit: Visit, made: ImageForm, of: str) -> dict[str, Any]:
    check_rows(await visit.form())
    uri = made.source()
    request, tags = made.request(uri), made.tag_map()
    if not uri:
        identity = visit.known.identity
        uri = await visit.console.artifacts.put_example(identity, made.example)
        request["codeArtifact"] = {"uri": uri}
        made.kind, made.uploaded, made.upload_name = "upload", uri, f"example {made.example}"
    if of:
        return await visit.ask("UpdateMicrovmImage", imageIdentifier=arn_of(visit, of), **request)
    return await visit.ask("CreateMicrovmImage", name=made.name, tags=tags or None, **request)


async def upload(visit: Visit) -> Response:
    """Take a zip as it comes, look into it, and put it into S3 as who sends it."""
    artifacts = visit.console.artifacts
    if not artifacts.offered:
        raise AccessDenied(
            "This service uses an S3 of its own accounts: upload there and give the s3:// URI."
        )
    name = visit.query("name")
    if not _NAME.fullmatch(name):
        raise ValidationError("Give the image a name first: letters, digits, - and _.")
    async with artifacts.file() as file:
        size = await _received(visit, file)
        files = await asyncio.to_thread(_look, file)
        uri = await artifacts.put(visit.known.identity, name, file)
    return JSONResponse({"uri": uri, "files": files, "bytes": size})


async def _received(visit: Visit, file: IO[bytes]) -> int:
    size, held = 0, bytearray()
    async with asyncio.timeout(UPLOAD_SECONDS):
        async for chunk in bounded(visit.request.stream(), visit.console.artifacts.limit):
            held += chunk
            size += len(chunk)
            if len(held) >= _PIECE:
                await asyncio.to_thread(file.write, bytes(held))
                held.clear()
    await asyncio.to_thread(file.write, bytes(held))
    return size


def _look(file: IO[bytes]) -> int:
    """The number of files. What a build would refuse at once is refused before it is kept."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValidationError(f"This is not a zip file that can be read: {error}.") from error
    if DOCKERFILE not in names:
        elsewhere = next((n for n in names if n.endswith(f"/{DOCKERFILE}")), None)
        hint = f" There is {elsewhere}: send what is in that folder." if elsewhere else ""
        raise ValidationError(f"There is no {DOCKERFILE} at the top of this archive.{hint}")
    return sum(not name.endswith("/") for name in names)


async def _bases(visit: Visit) -> dict[str, list[str]]:
    """Versions of the managed images by ARN, as far as the caller may see them."""
    found: dict[str, list[str]] = {}
    try:
        for item in (await visit.ask("ListManagedMicrovmImages"))["items"]:
            arn = item["imageArn"]
            versions = await visit.ask("ListManagedMicrovmImageVersions", imageIdentifier=arn)
            found[arn] = [each["imageVersion"] for each in versions["items"]]
    except AccessDenied:
        return found
    return found


def _shown(
    visit: Visit,
    made: ImageForm,
    bases: dict[str, list[str]],
    *,
    of: str = "",
    problem: ApiError | None = None,
) -> Response:
    step = getattr(problem, "step", "") or (step_of(problem.message) if problem else "")
    artifacts = visit.console.artifacts
    return visit.render(
        "images/new.html",
        400 if problem else 200,
        form=made,
        of=of,
        steps=STEPS,
        problem=None if problem is None else problem.message,
        step=step or ("review" if problem else STEPS[0]),
        bases=bases,
        sizes=[Size.of(mib) for mib in visit.console.memory_sizes],
        default_mib=DEFAULT_MEMORY_MIB,
        networks=networks(visit.console.region),
        artifacts=artifacts,
    )


PAGE = Page(
    (
        PageRoute("/new-image", form),
        PageRoute("/new-image", create, method="POST"),
        PageRoute("/uploads", upload, method="POST", raw=True),
    ),
    Section.IMAGES,
    listed=False,
)
