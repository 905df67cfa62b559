"""Where the output of builds and MicroVMs goes.

The node's own store has each log under its account and the default names, whatever the caller
asked for, so that two of them never share a stream there. CloudWatch Logs gets it where the caller
wants it, and only with a role: without an execution role there are no run-time logs there
(recorded). A run does not inherit the logging of its image (recorded).
"""

import time

from microvmd.messages.node import LogDelivery, LogTarget
from microvmd.model.image import Build, Logging, Version
from microvmd.model.microvm import MicroVm


def build_log(version: Version, build: Build) -> LogTarget:
    """Where the node keeps the log of one of a version's builds."""
    group = own_group(version.account, _group(version))
    return LogTarget(group, f"build/{version.number}/{build.build_id}")


def run_log(microvm: MicroVm, version: Version) -> LogTarget:
    """Where the node keeps a MicroVM's output: ``YYYY/MM/DD[<version>]<microvmId>`` (recorded)."""
    group = own_group(version.account, _group(version))
    return LogTarget(group, _stream(version, microvm.started_at, microvm.microvm_id))


def own_group(account: str, group: str) -> str:
    """The name in the node's own store of what an account calls ``group``."""
    return f"{account}:{group}"


def build_delivery(version: Version, build: Build) -> LogDelivery | None:
    """Where CloudWatch Logs gets the log of a build, or None where it gets nothing.

    Recorded: a build is a MicroVM too and its stream is named like one's. Here its id is the
    build's, so that who knows the build finds the stream.
    """
    config = version.config
    stream = _stream(version, build.created_at, f"microvm-{build.build_id}")
    return _delivery(_group(version), stream, config.logging, config.build_role_arn)


def run_delivery(microvm: MicroVm, version: Version) -> LogDelivery | None:
    """Where CloudWatch Logs gets a MicroVM's output, or None where it gets nothing."""
    stream = run_log(microvm, version).stream
    return _delivery(_group(version), stream, microvm.logging, microvm.execution_role_arn)


def _stream(version: Version, began_at: float, microvm_id: str) -> str:
    day = time.strftime("%Y/%m/%d", time.gmtime(began_at))
    return f"{day}[{version.number}]{microvm_id}"


def _group(version: Version) -> str:
    return f"/aws/lambda-microvms/{version.image_name}"


def _delivery(
    group: str, stream: str, logging: Logging | None, role_arn: str | None
) -> LogDelivery | None:
    if role_arn is None or (logging is not None and logging.disabled):
        return None
    asked = logging or Logging()
    return LogDelivery(asked.group or group, asked.stream or stream, role_arn)
