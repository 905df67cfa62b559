"""Commands on images: build a directory, list, delete."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from microvmd.cli import completion
from microvmd.cli.client import Service
from microvmd.cli.failure import reported
from microvmd.cli.follow import follow_build
from microvmd.cli.output import (
    JsonFlag,
    age,
    console,
    duration,
    print_json,
    print_raw,
    print_table,
    size,
)
from microvmd.service.artifacts import upload
from microvmd.service.context import write_zip
from microvmd.service.failure import Failure
from microvmd.settings import settings

if TYPE_CHECKING:
    from types_boto3_lambda_microvms.type_defs import (
        CreateMicrovmImageRequestTypeDef,
        HooksTypeDef,
    )

app = typer.Typer(no_args_is_help=True, help="Images: build, list, delete.")

IMAGE_HOOKS = ("ready", "validate")
MICROVM_HOOKS = ("run", "resume", "suspend", "terminate")
HOOK_PORT = 9000


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What an image is made with, besides its context."""

    name: str
    memory: int | None = None
    hooks: tuple[str, ...] = ()
    hook_port: int = HOOK_PORT
    environment: tuple[str, ...] = ()
    all_capabilities: bool = False
    description: str | None = None


@app.command()
def build(
    directory: Annotated[Path, typer.Argument(help="Directory with a Dockerfile.")] = Path(),
    name: Annotated[
        str | None, typer.Option(help="Name of the image; that of the directory if not given.")
    ] = None,
    memory: Annotated[
        int | None, typer.Option(help="MiB at least: 512, 1024, 2048, 4096, 8192.")
    ] = None,
    hooks: Annotated[
        str,
        typer.Option(
            help="Hooks that the application answers, as run,suspend,ready:120 (seconds)."
        ),
    ] = "",
    hook_port: Annotated[int, typer.Option(help="Port where it answers them.")] = HOOK_PORT,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE for the application.")
    ] = None,
    all_capabilities: Annotated[
        bool, typer.Option(help="Give the application every capability of its kernel.")
    ] = False,
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No build log.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Zip a directory, upload it, build a new version of the image and follow the build.

    Example: microvmd images build ./app --name app --memory 1024 --hooks ready,run
    """
    with reported():
        directory = directory.resolve()
        options = BuildOptions(
            name=name or directory.name,
            memory=memory,
            hooks=tuple(hook for hook in hooks.split(",") if hook),
            hook_port=hook_port,
            environment=tuple(env or ()),
            all_capabilities=all_capabilities,
            description=description,
        )
        service = Service(settings.load())
        began = time.monotonic()
        image = build_image(service, directory, options, show_log=not quiet and not as_json)
        if as_json:
            print_json(image)
            return
        took = duration(time.monotonic() - began)
        console.print(f"[green]{image['name']} {image['imageVersion']}[/] built in {took}")
        print_raw(image["imageArn"])


def build_image(
    service: Service, directory: Path, options: BuildOptions, *, show_log: bool
) -> dict[str, Any]:
    """The whole way from a directory to an ACTIVE version. Raises Failure with the reason."""
    with tempfile.TemporaryFile() as archive:
        count = write_zip(directory, archive)
        uri, sent = upload(service.s3, service.account, service.region, options.name, archive)
        if show_log:
            console.print(
                f"{count} files, {size(archive.tell())}: {uri}{'' if sent else ' (there)'}"
            )
    answer = create_or_update(service, uri, options)
    return follow_build(service, answer, show_log=show_log)


def create_or_update(service: Service, uri: str, options: BuildOptions) -> dict[str, Any]:
    """CreateMicrovmImage, or UpdateMicrovmImage where the name is taken."""
    request: CreateMicrovmImageRequestTypeDef = {
        "name": options.name,
        "baseImageArn": service.base_image_arn,
        "buildRoleArn": service.build_role_arn,
        "codeArtifact": {"uri": uri},
    }
    if options.memory is not None:
        request["resources"] = [{"minimumMemoryInMiB": options.memory}]
    if options.hooks:
        request["hooks"] = hooks_request(options.hooks, options.hook_port)
    if options.environment:
        request["environmentVariables"] = environment(options.environment)
    if options.all_capabilities:
        request["additionalOsCapabilities"] = ["ALL"]
    if options.description is not None:
        request["description"] = options.description
    arn = service.image_arn(options.name)
    try:
        service.microvms.get_microvm_image(imageIdentifier=arn)
    except service.microvms.exceptions.ResourceNotFoundException:
        return dict(service.microvms.create_microvm_image(**request))
    update: Any = {key: value for key, value in request.items() if key != "name"}
    return dict(service.microvms.update_microvm_image(imageIdentifier=arn, **update))


def hooks_request(hooks: tuple[str, ...], port: int) -> "HooksTypeDef":
    """The request's form of ``ready:120,run,...``. Raises Failure for a name that is no hook, or
    a time that is no number."""
    asked = {hook: seconds for hook, _, seconds in (text.partition(":") for text in hooks)}
    unknown = set(asked) - set(IMAGE_HOOKS) - set(MICROVM_HOOKS)
    if unknown:
        raise Failure(
            f"no such hook: {', '.join(sorted(unknown))}",
            f"hooks are {', '.join(IMAGE_HOOKS + MICROVM_HOOKS)}",
        )
    request: Any = {"port": port}
    for member, names in (("microvmImageHooks", IMAGE_HOOKS), ("microvmHooks", MICROVM_HOOKS)):
        enabled: dict[str, str | int] = {}
        for hook, seconds in ((name, asked[name]) for name in names if name in asked):
            enabled[hook] = "ENABLED"
            if seconds:
                enabled[f"{hook}TimeoutInSeconds"] = _seconds(hook, seconds)
        if enabled:
            request[member] = enabled
    result: HooksTypeDef = request
    return result


def _seconds(hook: str, text: str) -> int:
    if not text.isdecimal():
        raise Failure(f"not a number of seconds: {hook}:{text}", f"write {hook}:60")
    return int(text)


def environment(pairs: tuple[str, ...]) -> dict[str, str]:
    """``NAME=VALUE`` pairs as a map. Raises Failure for one without ``=``."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise Failure(f"not NAME=VALUE: {pair}")
        found[name] = value
    return found


@app.command("list")
def list_images(as_json: JsonFlag = False) -> None:
    """List images.

    Example: microvmd images list --json
    """
    with reported():
        service = Service(settings.load())
        items: list[Any] = []
        for page in service.microvms.get_paginator("list_microvm_images").paginate():
            items.extend(page["items"])
        if as_json:
            print_json(items)
            return
        print_table(
            ["IMAGE", "STATE", "ACTIVE", "AGE"],
            [
                [
                    item["name"],
                    item["state"],
                    item.get("latestActiveImageVersion") or "-",
                    age(item["createdAt"]),
                ]
                for item in items
            ],
        )


@app.command()
def delete(
    images: Annotated[
        list[str], typer.Argument(help="Names or ARNs.", autocompletion=completion.images)
    ],
    as_json: JsonFlag = False,
) -> None:
    """Delete images with all their versions.

    Example: microvmd images delete app
    """
    with reported():
        service = Service(settings.load())
        for image in images:
            service.microvms.delete_microvm_image(imageIdentifier=service.image_arn(image))
            if not as_json:
                print_raw(image)
        if as_json:
            print_json([{"imageArn": service.image_arn(image)} for image in images])
