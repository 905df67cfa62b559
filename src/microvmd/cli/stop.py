"""``microvmd stop``: ends the service of a root, with what outlives it on purpose."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from microvmd.cli.client import LIVE, Service
from microvmd.cli.failure import reported
from microvmd.cli.output import JsonFlag, print_json, print_raw
from microvmd.cli.waiting import wait_for_microvm
from microvmd.settings import settings


def stop(
    terminate_all: Annotated[
        bool, typer.Option("--terminate-all", help="End the MicroVMs of this account first.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """End the service of this root, its HAProxy and its local AWS server.

    RUNNING MicroVMs stay, cannot be reached meanwhile, and are taken over by the next serve. The
    local AWS server keeps buckets, roles and logs in memory: they end with it.

    Example: microvmd stop --terminate-all
    """
    with reported():
        found = settings.load()
        terminated = _terminate_all(Service(found)) if terminate_all else []
        # Imported here: most commands need nothing of the service.
        from microvmd.service.ending import end_service
        from microvmd.service.serve import edge_settings

        ended = asyncio.run(end_service(found.root, found.run, edge_settings(found)))
        if as_json:
            print_json({**asdict(ended), "terminated": terminated})
            return
        for microvm in terminated:
            print_raw(f"terminated {microvm}")
        for name, pid in asdict(ended).items():
            what = name.replace("_", " ")
            print_raw(f"{what}: {'did not run' if pid is None else f'ended (process {pid})'}")


def _terminate_all(service: Service) -> list[str]:
    live = [item["microvmId"] for item in service.list_microvms() if item["state"] in LIVE]
    for microvm in live:
        service.microvms.terminate_microvm(microvmIdentifier=microvm)
    for microvm in live:
        wait_for_microvm(service, microvm, "TERMINATED")
    return live
