"""Commands on base images: what a FROM line can name on this machine without any registry."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from microvmd.cli.failure import reported
from microvmd.cli.output import (
    JsonFlag,
    console,
    print_json,
    print_raw,
    print_table,
    size,
    stderr,
)
from microvmd.service.failure import Failure
from microvmd.settings import settings

if TYPE_CHECKING:
    from microvmd.build.bases import BaseStore

app = typer.Typer(no_args_is_help=True, help="Base images that FROM finds without a registry.")

Name = Annotated[str, typer.Argument(help="Image name, as python:3.11-slim.")]
Result = TypeVar("Result")


def _store() -> "BaseStore":
    # Imports half of the service, and no other command should wait for that.
    from microvmd.build.bases import BaseStore

    return BaseStore(settings.load().cache / "bases")


def _done(work: Coroutine[Any, Any, Result]) -> Result:
    """Run one change of the store; its errors become a Failure."""
    from microvmd.build.bases import InvalidName, UnknownBase
    from microvmd.build.debian import DebianUnavailable
    from microvmd.build.oci import InvalidImage
    from microvmd.vmm.process import ProcessFailed

    try:
        return asyncio.run(work)
    except UnknownBase as error:
        raise Failure(str(error), "see what there is: microvmd base list") from error
    except (InvalidImage, InvalidName, DebianUnavailable, ProcessFailed) as error:
        raise Failure(str(error)) from error
    except PermissionError as error:
        raise Failure(str(error), "base images belong to the service: run this as root") from error
    except OSError as error:
        raise Failure(str(error)) from error


@app.command()
def add(
    name: Name,
    source: Annotated[
        Path, typer.Argument(exists=True, help="Root tarball, OCI layout or OCI archive.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Add a base image from a file.

    Example: microvmd base add python:3.11-slim python.tar
    """
    with reported():
        _print(name, _done(_store().add(name, source.resolve())), as_json=as_json)


@app.command()
def alias(
    name: Name,
    target: Annotated[str, typer.Argument(help="A base image, as microvmd/python:3.")],
    as_json: JsonFlag = False,
) -> None:
    """Let one name stand for another: base alias python:3.11-slim microvmd/python:3.

    Example: microvmd base alias python:3.11-slim microvmd/python:3
    """
    with reported():
        _done(_store().alias(name, target))
        _print(name, name, as_json=as_json)


@app.command()
def debootstrap(
    name: Name,
    packages: Annotated[list[str] | None, typer.Argument(help="Debian packages to add.")] = None,
    suite: Annotated[str, typer.Option(help="Debian release.")] = "trixie",
    as_json: JsonFlag = False,
) -> None:
    """Make a base image from this machine's Debian mirror.

    Example: microvmd base debootstrap debian:trixie curl git
    """
    with reported():
        said = console.print if console.is_terminal else print_raw
        log = stderr.print if as_json else said
        made = _done(_store().debootstrap(name, suite, tuple(packages or ()), log))
        _print(name, made, as_json=as_json)


def _print(name: str, made: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "base": made})
    else:
        print_raw(made)


@app.command("list")
def list_bases(as_json: JsonFlag = False) -> None:
    """List base images, with those that are made on first use.

    Example: microvmd base list
    """
    with reported():
        listed = _store().list()
        if as_json:
            print_json(
                [
                    {
                        "name": one.name,
                        "digest": one.digest,
                        "aliasOf": one.target,
                        "size": one.size,
                    }
                    for one in listed
                ]
            )
            return
        print_table(
            ["BASE", "SIZE", "STANDS FOR"],
            [[one.name, _size(one.size, one.target), one.target or ""] for one in listed],
        )


def _size(count: int | None, target: str | None) -> str:
    if target is not None:
        return ""
    return "on first use" if count is None else size(count)


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(help="Names of base images.")],
    as_json: JsonFlag = False,
) -> None:
    """Forget names; a base without a name is deleted.

    Example: microvmd base remove python:3.11-slim
    """
    with reported():
        for name in names:
            _done(_store().remove(name))
            if not as_json:
                print_raw(name)
        if as_json:
            print_json([{"name": name} for name in names])
