"""The local AWS server (moto) of local mode: S3, STS, IAM, logs and KMS for one machine.

It is a process of its own and outlives `microvmd serve`, because what clients uploaded is in its
memory; a later serve adopts it by pid and start time. It listens on a UNIX socket that we bind, so
neither a guest nor another user can reach it but through the API, which checks signatures.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from microvmd.service.local_retention import keep_small
from microvmd.service.local_storage import StorageLimit
from microvmd.vmm.cores import leave_none
from microvmd.vmm.process import Process, ProcessGone, ProcessIdentity, owned, spawn

SOCKET = "local-aws.sock"
RECORD = "local-aws.json"
RESTART_PAUSE = 1.0
BY_REQUEST = "by request"
"""In the record of a server that is told the account with each request."""

_log = structlog.get_logger("microvmd.local_aws")


@dataclass(frozen=True, slots=True)
class LocalAws:
    """Where the server listens and which process it is."""

    socket: Path
    identity: ProcessIdentity


@contextlib.asynccontextmanager
async def local_aws(
    run: Path, log_file: Path, *, keep: bool = True, log_mib: int = 64, s3_mib: int = 2048
) -> AsyncIterator[LocalAws]:
    """Adopt the running server or start one, and start it again when it ends.

    ``log_mib`` is what its log events may take of its memory, ``s3_mib`` what the objects of one
    account may. With ``keep`` it goes on when we leave.
    """
    ready: asyncio.Future[LocalAws] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        server = _Server(run, log_file, log_mib, s3_mib)
        task = tasks.create_task(_supervise(server, keep=keep, ready=ready))
        try:
            yield await ready
        finally:
            task.cancel()


@dataclass(frozen=True, slots=True)
class _Server:
    """Where a server keeps what, and what it is started with."""

    run: Path
    log_file: Path
    log_mib: int
    s3_mib: int


async def _supervise(server: _Server, *, keep: bool, ready: asyncio.Future[LocalAws]) -> None:
    while True:
        async with contextlib.AsyncExitStack() as stack:
            process = await _adopt_or_start(stack, server)
            if keep:
                process.detach()
            if not ready.done():
                ready.set_result(LocalAws(server.run / SOCKET, process.identity))
            ended = await process.wait()
        _log.error("local AWS ended: its buckets and logs are lost", how=str(ended))
        await asyncio.sleep(RESTART_PAUSE)


async def _adopt_or_start(stack: contextlib.AsyncExitStack, server: _Server) -> Process:
    try:
        process = Process.adopt(recorded(server.run))
    except ProcessGone:
        return await _start(stack, server)
    return await stack.enter_async_context(owned(process))


async def _start(stack: contextlib.AsyncExitStack, server: _Server) -> Process:
    with _listen(server.run / SOCKET) as listener, server.log_file.open("ab") as output:
        process = await stack.enter_async_context(
            spawn(
                [
                    sys.executable,
                    "-m",
                    __spec__.name,
                    f"--fd={listener.fileno()}",
                    f"--log-mib={server.log_mib}",
                    f"--s3-mib={server.s3_mib}",
                ],
                stdout=output,
                stderr=output,
                fds=[listener.fileno()],
                env=_environment(),
            )
        )
    _record(server.run, process.identity)
    _log.info("local AWS started", pid=process.pid)
    return process


def _environment() -> dict[str, str]:
    """The account of a request is what the relay says in a header, and nothing else; a bucket is
    its account's alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOTO_")}
    return kept | {"MOTO_S3_ALLOW_CROSSACCOUNT_ACCESS": "false", "PYTHONUNBUFFERED": "1"}


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(128)
    return listener


def recorded(run: Path) -> ProcessIdentity:
    """The server that a service with this directory has started last. Raises ProcessGone."""
    try:
        found = json.loads((run / RECORD).read_text())
        if found["accounts"] != BY_REQUEST:
            # One from before there were several accounts would give each the things of all.
            raise ValueError(found["accounts"])
        return ProcessIdentity(int(found["pid"]), int(found["start_time"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProcessGone("no local AWS server is recorded") from error


def _record(run: Path, identity: ProcessIdentity) -> None:
    temporary = run / f"{RECORD}.new"
    record = {"pid": identity.pid, "start_time": identity.start_time, "accounts": BY_REQUEST}
    temporary.write_text(json.dumps(record))
    temporary.rename(run / RECORD)


def main(argv: Sequence[str] | None = None) -> None:
    """Serve moto on a listening socket that was passed in. Runs in the spawned process."""
    # Imported here: moto costs a second and is of no use to the process that supervises it.
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    parser = argparse.ArgumentParser(prog="microvmd-local-aws")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--log-mib", type=int, required=True)
    parser.add_argument("--s3-mib", type=int, required=True)
    options = parser.parse_args(argv)
    # A line for each request would fill the disk: CloudWatch Logs alone gets one a second of each
    # MicroVM.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    leave_none()
    keep_small(options.log_mib << 20)
    server = make_server(
        "unix://local-aws",
        0,
        StorageLimit(DomainDispatcherApplication(create_backend_app), options.s3_mib << 20),
        threaded=True,
        request_handler=MotoRequestHandler,
        fd=options.fd,
    )
    server.serve_forever()


if __name__ == "__main__":
    main()
