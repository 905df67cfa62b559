"""What every field of a message to or from the node may hold: checked as if its sender attacked.

Types alone let a name be a path. Each field of each message, and of each value in it, has a rule
here; a test goes through all of them and misses none. Names become paths, cgroups, lines of nft and
arguments on the node, so their alphabets are the narrowest that the control plane needs.
"""

import math
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import fields, is_dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from microvmd.messages import node, node_requests
from microvmd.model.capacity import Machine
from microvmd.model.egress import Egress, Reach
from microvmd.model.hooks import HookName, Hooks, HookSetting
from microvmd.model.identifiers import is_microvm_id
from microvmd.model.image import VMMS, Logging, SnapshotSizes, VersionConfig
from microvmd.model.names import parse_pattern
from microvmd.model.size import LARGEST_MIB, SMALLEST_MIB, Size

Rule = Callable[[Any], bool]
"""Whether a value, whose type is right already, may be there."""

LARGEST_NUMBER = 2**53
LONGEST_REASON = 16 * 1024
LONGEST_LINE = 256 * 1024
MOST_REACHES = 4096
MOST_KEPT = 10_000
MOST_TAKEN = 50_000
MOST_NAMES = 1000
MOST_LINES = 4096


class RuleBroken(ValueError):
    """A value that no honest sender sends; the text names the field and not the value."""


def _matches(pattern: str, most: int = 2048) -> Rule:
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: len(text) <= most and compiled.fullmatch(text) is not None


def _number(least: int, most: int) -> Rule:
    return lambda value: least <= value <= most


def _text(most: int, least: int = 0) -> Rule:
    return lambda text: least <= len(text) <= most


def _name(most: int) -> Rule:
    """Text of one line without control characters."""
    return lambda text: 1 <= len(text) <= most and text.isprintable()


def _or_none(rule: Rule) -> Rule:
    return lambda value: value is None or rule(value)


def _each(rule: Rule, most: int) -> Rule:
    return lambda values: len(values) <= most and all(map(rule, values))


def _pairs(key: Rule, value: Rule, most: int) -> Rule:
    return lambda found: (
        len(found) <= most and all(key(name) and value(item) for name, item in found.items())
    )


def _any(_: object) -> bool:
    """The type says it all, or the value is a message's part with rules of its own."""
    return True


def _address(text: str) -> bool:
    try:
        return str(IPv4Address(text)) == text
    except ValueError:
        return False


def _is_pattern(text: str) -> bool:
    try:
        return parse_pattern(text) == text
    except ValueError:
        return False


def _ports(ranges: tuple[tuple[int, int], ...]) -> bool:
    return len(ranges) <= 256 and all(0 <= first <= last <= 65535 for first, last in ranges)


def _milliseconds(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= 1e9


ACCOUNT = _matches(r"[0-9]{12}")
IMAGE_NAME = _matches(r"[a-zA-Z0-9_-]{1,64}")
VERSION_NUMBER = _matches(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
BUILD_ID = _matches(UUID)
SNAPSHOT = _matches(rf"({UUID})?")
CONNECTOR_ID = _matches(rf"nc-{UUID}")
GRANT = _matches(rf"nc-{UUID}:[1-9][0-9]{{0,17}}")
GENERATION = _number(1, LARGEST_NUMBER)
IMAGE_ARN = _matches(
    r"arn:aws[a-zA-Z-]*:lambda:[a-z0-9-]+:[0-9]{12}:microvm-image:[a-zA-Z0-9_-]{1,64}", 256
)
ROLE_ARN = _matches(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+")
KMS_KEY = _matches(
    r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[a-zA-Z0-9:/_-]+"
    r"|alias/[a-zA-Z0-9:/_-]+|[a-zA-Z0-9-]+"
)
OWN_GROUP = _matches(r"[0-9]{12}:[^\x00-\x1f\x7f]{1,512}", 600)
DELIVERY_GROUP = _matches(r"[a-zA-Z0-9_\-/.#]{1,512}")
DELIVERY_STREAM = _matches(r"[^:*]{1,512}")
LOG_STREAM = _name(512)
WORD = _matches(r"\S{1,2048}")
REASON = _text(LONGEST_REASON)
MICROVM = {"microvm_id": is_microvm_id, "generation": GENERATION}
BYTES = _or_none(_number(0, LARGEST_NUMBER))
TIMINGS = _pairs(_matches(r"[a-z_.]{1,64}"), _milliseconds, 64)


def _is_size(size: Size) -> bool:
    return SMALLEST_MIB <= size.baseline_mib <= LARGEST_MIB and size == Size.of(size.baseline_mib)


RULES: Mapping[type, Mapping[str, Rule]] = {
    # values
    node.VersionKey: {
        "account": ACCOUNT,
        "image_name": IMAGE_NAME,
        "number": VERSION_NUMBER,
        "build": SNAPSHOT,
    },
    node.LogTarget: {"group": OWN_GROUP, "stream": LOG_STREAM},
    node.LogDelivery: {
        "group": DELIVERY_GROUP,
        "stream": DELIVERY_STREAM,
        "role_arn": ROLE_ARN,
    },
    Size: dict.fromkeys(
        ("baseline_mib", "peak_mib", "peak_vcpus", "disk_gib"), _number(1, 4 * LARGEST_MIB)
    ),
    HookSetting: {"enabled": _any, "timeout_s": _or_none(_number(1, 3600))},
    Hooks: {
        "port": _or_none(_number(1, 65535)),
        "settings": lambda found: len(found) <= len(HookName),
    },
    Reach: {
        "grant": GRANT,
        "network": _any,
        "protocol": _any,
        "ports": _ports,
        "names": _each(_is_pattern, MOST_NAMES),
    },
    Egress: {"internet": _any, "reaches": lambda found: len(found) <= MOST_REACHES},
    Logging: {
        "disabled": _any,
        "group": _or_none(DELIVERY_GROUP),
        "stream": _or_none(DELIVERY_STREAM),
    },
    VersionConfig: {
        "base_image_arn": WORD,
        "build_role_arn": ROLE_ARN,
        "code_artifact_uri": WORD,
        "base_image_version": _or_none(WORD),
        # For people, of any length, and of no use to a node.
        "description": lambda text: text is None,
        "logging": _any,
        "egress": _each(_text(2048, 1), 10),
        "cpu_configurations": _each(lambda text: text in ("ARM_64", "X86_64"), 64),
        "memory_mib": _number(SMALLEST_MIB, LARGEST_MIB),
        "os_capabilities": _each(lambda text: text == "ALL", 64),
        "hooks": _any,
        "hooks_given": _any,
        "environment": _pairs(_matches(r"\S{1,256}"), _text(4096), 100),
        "kms_key": _or_none(KMS_KEY),
    },
    SnapshotSizes: {"memory": BYTES, "code": BYTES, "disk": BYTES},
    node.MicrovmSpec: {
        **MICROVM,
        "version": _any,
        "image_arn": IMAGE_ARN,
        "size": _is_size,
        "hooks": _any,
        "log": _any,
        "run_hook_payload": _or_none(_text(16 * 1024)),
        "egress": _any,
        "execution_role_arn": _or_none(ROLE_ARN),
        "kms_key": _or_none(KMS_KEY),
        "delivery": _any,
        "cause": _any,
    },
    node.Cause: {
        "request_id": _or_none(_matches(r"[a-zA-Z0-9-]{1,64}")),
        "traceparent": _or_none(_matches(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")),
    },
    # commands
    node.StartMicrovm: {"spec": _any},
    node.ResumeMicrovm: {"spec": _any},
    node.SuspendMicrovm: MICROVM,
    node.TerminateMicrovm: MICROVM,
    node.BuildVersion: {
        "version": _any,
        "build_id": BUILD_ID,
        "image_arn": IMAGE_ARN,
        "config": _any,
        "log": _any,
        "egress": _any,
        "delivery": _any,
        "vmm": _or_none(VMMS.__contains__),
        "source": _any,
    },
    node.DeleteVersion: {"version": _any},
    node.RetireVersion: {"version": _any},
    node.FreeSnapshot: {"version": _any},
    node.AdoptMicrovm: {"spec": _any, "phase": _any},
    node.ProvisionConnector: {
        "connector_id": CONNECTOR_ID,
        "number": GENERATION,
        "egress": _any,
    },
    node.RevokeConnector: {"connector_id": CONNECTOR_ID, "numbers": _each(GENERATION, 10_000)},
    node.ChangeEgress: {**MICROVM, "egress": _any},
    # reports
    node.Started: {
        **MICROVM,
        "edge_address": _address,
        "timings": TIMINGS,
        "offsets": TIMINGS,
        "begun": lambda value: math.isfinite(value) and 0 <= value <= 1e11,
        "cause": _any,
    },
    node.Suspended: {**MICROVM, "timings": TIMINGS, "stored_bytes": _number(0, LARGEST_NUMBER)},
    node.SuspendFailed: {**MICROVM, "reason": REASON, "edge_address": _address},
    node.ResumeFailed: {**MICROVM, "reason": REASON},
    node.Died: {**MICROVM, "reason": REASON},
    node.Unfit: {**MICROVM, "reason": REASON, "fits": _or_none(SNAPSHOT)},
    node.Terminated: MICROVM,
    node.BuildStarted: {"version": _any, "build_id": BUILD_ID},
    node.BuildSucceeded: {"version": _any, "build_id": BUILD_ID, "sizes": _any},
    node.BuildFailed: {"version": _any, "build_id": BUILD_ID, "reason": REASON, "sizes": _any},
    node.VersionDeleted: {"version": _any, "error": _or_none(REASON)},
    node.ConnectorProvisioned: {
        "connector_id": CONNECTOR_ID,
        "number": GENERATION,
        "error": _or_none(REASON),
    },
    node.ConnectorRevoked: {
        "connector_id": CONNECTOR_ID,
        "numbers": _each(GENERATION, 10_000),
        "error": _or_none(REASON),
    },
    node.EgressChanged: {**MICROVM, "error": _or_none(REASON)},
    # requests and their answers
    node_requests.OpenControl: {},
    node_requests.Welcome: {},
    node_requests.Refused: {"reason": REASON},
    node_requests.Keep: {
        "microvms": _each(is_microvm_id, MOST_KEPT),
        "versions": lambda found: len(found) <= MOST_KEPT,
    },
    node_requests.Sweep: {},
    node_requests.Swept: {},
    node_requests.CheckKeys: {"spec": _any},
    node_requests.KeysChecked: {"problem": _any, "text": REASON},
    node_requests.AskVmm: {"microvm_id": is_microvm_id},
    node_requests.Vmm: {
        "pid": _number(1, 2**31),
        "start_time": _number(0, LARGEST_NUMBER),
        "pss_bytes": BYTES,
    },
    node_requests.VmmIs: {"vmm": _any},
    node_requests.AskRoom: {},
    Machine: {
        **dict.fromkeys(("memory_mib", "disk_mib"), _number(0, LARGEST_NUMBER)),
        **dict.fromkeys(("available_mib", "disk_free_mib"), _number(-(2**31), LARGEST_NUMBER)),
    },
    node_requests.RoomIs: {
        "waiting": _number(0, LARGEST_NUMBER),
        "machine": _any,
        "taken_mib": _pairs(
            _matches(r"[a-zA-Z0-9_.:-]{1,255}"), _number(0, LARGEST_NUMBER), MOST_TAKEN
        ),
    },
    node_requests.AskStored: {"microvm_id": is_microvm_id},
    node_requests.StoredIs: {"mib": _number(0, LARGEST_NUMBER)},
    node_requests.ReloadNetworks: {},
    node_requests.NetworksReloaded: {"error": _or_none(REASON)},
    node_requests.ReadLogs: {
        "group": OWN_GROUP,
        "stream": _or_none(LOG_STREAM),
        "follow": _any,
    },
    node_requests.LogLine: {
        "time": lambda value: math.isfinite(value),
        "stream": _text(1024),
        "message": _text(LONGEST_LINE),
    },
    node_requests.LogLines: {"lines": lambda found: len(found) <= MOST_LINES},
    node_requests.OpenShell: {"microvm_id": is_microvm_id},
    node_requests.ShellOpened: {},
    node_requests.ResizeShell: {"rows": _number(1, 65535), "cols": _number(1, 65535)},
    node_requests.ShellTaken: {"count": _number(1, node_requests.SHELL_CREDIT)},
    node_requests.ShellOver: {"why": _any},
}


def check(value: object) -> None:
    """Raise RuleBroken unless a message, and all that is in it, keeps to the rules."""
    kind = type(value)
    if not is_dataclass(value) or isinstance(value, type):
        return
    rules = RULES[kind]
    for field in fields(value):
        part = getattr(value, field.name)
        if not rules[field.name](part):
            raise RuleBroken(f"{kind.__name__}.{field.name} holds what may not be there")
        _check_parts(part)


def _check_parts(part: object) -> None:
    if isinstance(part, tuple | Set):
        for item in part:
            check(item)
    elif isinstance(part, Mapping):
        for item in part.values():
            check(item)
    elif not isinstance(part, str | int | float | IPv4Network | None):
        check(part)
