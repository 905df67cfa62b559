"""``microvmd limits``: what the account may do and have, and the reference page of all limits."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from microvmd.cli.client import Service
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, console, print_json, print_raw, print_table
from microvmd.model.quota import QUOTAS
from microvmd.model.rate import RATES
from microvmd.model.size import AWS_MEMORY_MIB, DEFAULT_MEMORY_MIB, Size
from microvmd.settings import settings
from microvmd.settings.names import setting_names

_REFUSED = "402 `ServiceQuotaExceededException`; nothing is made"
_TOO_MANY = "400 `NetworkConnectorLimitExceededException`; nothing is made"
_HELD = (
    "held back for up to `limits.wait_seconds`, then 429 `ThrottlingException` with `Retry-After`"
)
_FULL = "runs and resumes are refused with 500, builds fail; what runs goes on"
_QUOTAS = {
    "memory_mib": ("baseline memory of MicroVMs and builds, MiB", QUOTAS.memory_mib),
    "images": ("images", QUOTAS.images),
    "versions": ("versions of an image", QUOTAS.versions),
    "builds": ("builds at a time", QUOTAS.builds),
}
_MACHINE = ("reserve_mib", "microvm_mib", "overcommit", "disk_mib")
_OTHER = {
    "network.connectors": _TOO_MANY,
    "network.connector_versions": _TOO_MANY,
    "edge.shells": "a further shell of the MicroVM gets 429",
    "build.timeout_seconds": "the build fails",
}


def limits(
    as_json: JsonFlag = False,
    markdown: Annotated[
        bool, typer.Option(help="The reference page of the documentation.")
    ] = False,
) -> None:
    """Show what the account may do and have, what it has, and how full the machine is.

    Example: microvmd limits
    """
    with reported():
        if markdown:
            print_raw(limits_page())
            return
        found = Service(settings.load()).ask("GET", "/limits")
        if as_json:
            print_json(found)
            return
        print_table(("LIMIT", "MOST", "USED", "LEFT"), _rows(found))
        if found["machine"] is not None:
            console.print()
            print_table(("MACHINE", ""), _machine(found["machine"]))


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for name, quota in found["quotas"].items():
        shown = (_number(quota[part]) for part in ("limit", "used", "left"))
        most, used, left = shown
        yield name.replace("_", " "), "no limit" if quota["limit"] is None else most, used, left
    for name, rate in found["rates"].items():
        waiting = f"{rate['waiting']} wait" if rate["waiting"] else ""
        yield name, f"{rate['per_second']:g}/s", waiting, _number(int(rate["free"]))


def _machine(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("memory", f"{found['available_mib']} of {found['memory_mib']} MiB free"),
        ("room for more", f"{found['left_mib']} MiB, {found['reserve_mib']} stay free"),
        (
            "on it",
            f"{found['microvms']} MicroVMs and {found['builds']} builds, baselines of "
            f"{found['baseline_mib']} MiB; {found['waiting_vmms']} VMMs wait",
        ),
        (
            "disk",
            f"{found['disk_free_mib']} of {found['disk_mib']} MiB free, "
            f"{found['disk_reserve_mib']} are needed",
        ),
    ]


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def limits_page() -> str:
    """``docs/reference/limits.md``."""
    return "\n".join([*_INTRODUCTION, *_of_account(), *_of_machine(), *_of_sizes(), *_fixed()])


_INTRODUCTION = (
    "# Limits",
    "",
    "Made by `microvmd limits --markdown`. `microvmd limits` shows what your account has of them;",
    "[settings](settings.md) tells how to change them. 0 is no limit.",
)


def _of_account() -> Iterator[str]:
    yield from ("", "## Of an account", "", "| limit | AWS | setting | here | beyond it |")
    yield "|---|---|---|---|---|"
    for name, (meaning, aws) in _QUOTAS.items():
        yield _row(meaning, str(aws), f"limits.{name}", _REFUSED)
    for name, operation in settings.RATE_SETTINGS.items():
        yield _row(f"{operation} per second", f"{RATES[operation]:g}", f"limits.{name}", _HELD)
    yield _row("each other operation per second", "not told", "limits.other_rate", _HELD)
    for name, beyond in _OTHER.items():
        yield _row(setting_names()[name][1], "not told", name, beyond)


def _of_machine() -> Iterator[str]:
    yield from ("", "## Of the machine", "")
    yield from (
        "AWS tells nothing of its machines but `InsufficientCapacityException`. Free memory is the",
        "kernel's `MemAvailable`, or what the control groups above the VMMs leave if that is less.",
        "",
        "| limit | setting | here | beyond it |",
        "|---|---|---|---|",
    )
    for name in _MACHINE:
        default, meaning = setting_names()[f"limits.{name}"]
        yield f"| {meaning} | `limits.{name}` | {default} | {_FULL} |"


def _of_sizes() -> Iterator[str]:
    yield from ("", "## Of a MicroVM", "")
    yield from (
        "By baseline memory, as an image asks for it (`minimumMemoryInMiB`, "
        f"{DEFAULT_MEMORY_MIB} if it does not).",
        "The guest sees the memory and, as far as the machine has them, the processors.",
        "`image.memory_sizes` offers further sizes of the same shape.",
        "",
        "| baseline MiB | memory MiB | vCPU | disk GiB |",
        "|---|---|---|---|",
    )
    for size in map(Size.of, AWS_MEMORY_MIB):
        yield (f"| {size.baseline_mib} | {size.peak_mib} | {size.peak_vcpus} | {size.disk_gib} |")
    yield from (
        "",
        "A guest that takes more than its memory is the matter of its own kernel. A VMM that takes",
        "more than its guest may is ended, and its neighbours go on.",
    )


def _fixed() -> Iterator[str]:
    yield from ("", "## Fixed", "", "As on AWS; beyond them a request is refused with 400.", "")
    yield from ("| what | most |", "|---|---|")
    yield from (
        "| `runHookPayload` | 4096 bytes |",
        "| `maximumDurationInSeconds` | 28 800 |",
        "| minutes of a token | 60 |",
        "| tags of an image | 50 |",
        "| environment variables of an image | 100 |",
    )


def _row(meaning: str, aws: str, setting: str, beyond: str) -> str:
    default, _ = setting_names()[setting]
    return f"| {meaning} | {aws} | `{setting}` | {default} | {beyond} |"
