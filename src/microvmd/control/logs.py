"""Where the output of builds and MicroVMs goes.

The node's own store has each log under the default names, whatever the caller asked for, so that
two of them never share a stream there. CloudWatch Logs gets it where the caller wants it, and only
with a role: without an execution role there are no run-time logs there (recorded). A run does not
inherit the logging of its image (recorded).
"""

import time

from microvmd.messages.node import LogDelivery, LogTarget
from microvmd.model.image import Logging, Version
from microvmd.model.microvm import MicroVm


def build_log(version: Version) -> LogTarget:
    """Where the node keeps the log of a version's build."""
    return LogTarget(_group(version.image_name), f"build/{version.number}/{version.build.build_id}")


def run_log(microvm: MicroVm, version: Version) -> LogTarget:
    """Where the node keeps a MicroVM's output: ``YYYY/MM/DD[<version>]<microvmId>`` (recorded)."""
    day = time.strftime("%Y/%m/%d", time.gmtime(microvm.started_at))
    return LogTarget(_group(version.image_name), f"{day}[{version.number}]{microvm.microvm_id}")


def build_delivery(version: Version) -> LogDelivery | None:
    """Where CloudWatch Logs gets the log of a build, or None where it gets nothing."""
    config = version.config
    return _delivery(build_log(version), config.logging, config.build_role_arn)


def run_delivery(microvm: MicroVm, version: Version) -> LogDelivery | None:
    """Where CloudWatch Logs gets a MicroVM's output, or None where it gets nothing."""
    return _delivery(run_log(microvm, version), microvm.logging, microvm.execution_role_arn)


def _group(image_name: str) -> str:
    return f"/aws/lambda-microvms/{image_name}"


def _delivery(
    default: LogTarget, logging: Logging | None, role_arn: str | None
) -> LogDelivery | None:
    if role_arn is None or (logging is not None and logging.disabled):
        return None
    asked = logging or Logging()
    return LogDelivery(asked.group or default.group, asked.stream or default.stream, role_arn)
