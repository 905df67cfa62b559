"""Every message between the service and its node, made by hypothesis, and frames that are none."""

import random
import re
import string
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any, get_args

from hypothesis import strategies as st

from microvmd.messages import node, node_requests
from microvmd.messages.keys import KeyProblem
from microvmd.messages.shell import ShellEnd
from microvmd.model.capacity import Machine
from microvmd.model.egress import Egress, Protocol, Reach
from microvmd.model.hooks import HookName, Hooks, HookSetting
from microvmd.model.image import VMMS, Logging, SnapshotSizes, VersionConfig
from microvmd.model.microvm import Phase
from microvmd.model.size import Size

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
COUNT = st.integers(1, 2**53)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PRINTED = st.text(string.ascii_letters + string.digits + " /[]._-é€", min_size=1, max_size=30)
WORDS = st.text(string.ascii_letters + ":/.-", min_size=1, max_size=30)


def _made(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True)


MICROVM_ID = _made(f"microvm-{UUID}")
ROLE = _made(r"arn:aws:iam::[0-9]{12}:role/[a-zA-Z0-9+=,.@_-]{1,20}")
KMS = _made(r"alias/[a-zA-Z0-9_-]{1,20}|[a-zA-Z0-9-]{1,36}")
IMAGE_ARN = _made(r"arn:aws:lambda:[a-z]{2}-[a-z]{4}-1:[0-9]{12}:microvm-image:[a-zA-Z0-9_-]{1,20}")
CONNECTOR = _made(f"nc-{UUID}")
OWN_GROUP = st.builds("{}:{}".format, _made("[0-9]{12}"), PRINTED)
SNAPSHOT = st.just("") | _made(UUID)
VERSIONS = st.builds(
    node.VersionKey,
    _made("[0-9]{12}"),
    _made("[a-zA-Z0-9_-]{1,64}"),
    st.builds("{}.{}".format, st.integers(0, 999_999), st.integers(0, 999_999)),
    SNAPSHOT,
)
BYTES = st.none() | st.integers(0, 2**53)
SIZES = st.builds(SnapshotSizes, BYTES, BYTES, BYTES)
HOOKS = st.builds(
    Hooks,
    st.none() | st.integers(1, 65535),
    st.dictionaries(
        st.sampled_from(HookName),
        st.builds(HookSetting, st.none() | st.booleans(), st.none() | st.integers(1, 3600)),
    ),
)
PORTS = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(
    lambda pair: (min(pair), max(pair))
)
NETWORKS = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)
REACHES = st.builds(
    Reach,
    st.builds("{}:{}".format, CONNECTOR, st.integers(1, 10**17)),
    NETWORKS,
    st.sampled_from(Protocol),
    st.lists(PORTS, max_size=3).map(tuple),
    st.lists(st.sampled_from(["pypi.example", "*.cdn.example"]), max_size=2).map(tuple),
)
EGRESS = st.builds(Egress, st.booleans(), st.lists(REACHES, max_size=3).map(tuple))
LOG = st.builds(node.LogTarget, OWN_GROUP, PRINTED)
DELIVERY = st.builds(node.LogDelivery, _made(r"[a-zA-Z0-9_\-/.#]{1,30}"), PRINTED, ROLE)
CAUSES = st.none() | st.builds(
    node.Cause,
    st.none() | _made(UUID),
    st.none() | _made(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]"),
)
SPECS = st.builds(
    node.MicrovmSpec,
    microvm_id=MICROVM_ID,
    generation=COUNT,
    version=VERSIONS,
    image_arn=IMAGE_ARN,
    size=st.integers(64, 1 << 18).map(Size.of),
    hooks=HOOKS,
    log=LOG,
    run_hook_payload=st.none() | TEXT,
    egress=EGRESS,
    execution_role_arn=st.none() | ROLE,
    kms_key=st.none() | KMS,
    delivery=st.none() | DELIVERY,
    cause=CAUSES,
)
CONFIGS = st.builds(
    VersionConfig,
    base_image_arn=WORDS,
    build_role_arn=ROLE,
    code_artifact_uri=WORDS,
    base_image_version=st.none() | WORDS,
    description=st.none(),
    logging=st.none() | st.builds(Logging, st.booleans(), st.none(), st.none() | PRINTED),
    egress=st.lists(WORDS, max_size=2).map(tuple),
    cpu_configurations=st.lists(st.sampled_from(["ARM_64", "X86_64"]), max_size=2).map(tuple),
    memory_mib=st.integers(64, 1 << 18),
    os_capabilities=st.lists(st.just("ALL"), max_size=1).map(tuple),
    hooks=HOOKS,
    hooks_given=st.booleans(),
    environment=st.dictionaries(WORDS, TEXT, max_size=3),
    kms_key=st.none() | KMS,
)
TIMINGS = st.dictionaries(_made("[a-z_.]{1,20}"), st.floats(0, 1e9), max_size=3)
BEGUN = {"offsets": TIMINGS, "begun": st.floats(0, 1e11), "cause": CAUSES}
ADDRESS = st.ip_addresses(v=4).map(str)
MICROVM = {"microvm_id": MICROVM_ID, "generation": COUNT}
BUILD = {"version": VERSIONS, "build_id": _made(UUID)}
NUMBERS = st.lists(COUNT, max_size=3).map(tuple)
LINES = st.builds(node_requests.LogLine, st.floats(0, 1e10), PRINTED, TEXT)
ERROR = st.none() | TEXT
ROOM = st.integers(0, 2**40)
FOUND_VMMS = st.builds(node_requests.Vmm, st.integers(1, 2**31), st.integers(0, 2**53), BYTES)

FIELDS: dict[type, dict[str, st.SearchStrategy[Any]]] = {
    node.StartMicrovm: {"spec": SPECS},
    node.ResumeMicrovm: {"spec": SPECS},
    node.SuspendMicrovm: MICROVM,
    node.TerminateMicrovm: MICROVM,
    node.BuildVersion: {
        **BUILD,
        "image_arn": IMAGE_ARN,
        "config": CONFIGS,
        "log": LOG,
        "egress": EGRESS,
        "delivery": st.none() | DELIVERY,
        "vmm": st.none() | st.sampled_from(VMMS),
        "source": st.none() | VERSIONS,
    },
    node.DeleteVersion: {"version": VERSIONS},
    node.RetireVersion: {"version": VERSIONS},
    node.FreeSnapshot: {"version": VERSIONS},
    node.AdoptMicrovm: {"spec": SPECS, "phase": st.sampled_from(Phase)},
    node.ProvisionConnector: {"connector_id": CONNECTOR, "number": COUNT, "egress": EGRESS},
    node.RevokeConnector: {"connector_id": CONNECTOR, "numbers": NUMBERS},
    node.ChangeEgress: {**MICROVM, "egress": EGRESS},
    node.EgressChanged: {**MICROVM, "error": ERROR},
    node.Started: {**MICROVM, "edge_address": ADDRESS, "timings": TIMINGS, **BEGUN},
    node.Suspended: {**MICROVM, "timings": TIMINGS},
    node.SuspendFailed: {**MICROVM, "reason": TEXT, "edge_address": ADDRESS},
    node.ResumeFailed: {**MICROVM, "reason": TEXT},
    node.Died: {**MICROVM, "reason": TEXT},
    node.Unfit: {**MICROVM, "reason": TEXT, "fits": st.none() | SNAPSHOT},
    node.Terminated: MICROVM,
    node.BuildStarted: BUILD,
    node.BuildSucceeded: {**BUILD, "sizes": SIZES},
    node.BuildFailed: {**BUILD, "reason": TEXT, "sizes": st.none() | SIZES},
    node.VersionDeleted: {"version": VERSIONS, "error": ERROR},
    node.ConnectorProvisioned: {"connector_id": CONNECTOR, "number": COUNT, "error": ERROR},
    node.ConnectorRevoked: {"connector_id": CONNECTOR, "numbers": NUMBERS, "error": ERROR},
    node_requests.OpenControl: {},
    node_requests.Welcome: {},
    node_requests.Refused: {"reason": TEXT},
    node_requests.Keep: {
        "microvms": st.frozensets(MICROVM_ID, max_size=3),
        "versions": st.frozensets(VERSIONS, max_size=3),
    },
    node_requests.Sweep: {},
    node_requests.Swept: {},
    node_requests.CheckKeys: {"spec": SPECS},
    node_requests.KeysChecked: {"problem": st.none() | st.sampled_from(KeyProblem), "text": TEXT},
    node_requests.AskVmm: {"microvm_id": MICROVM_ID},
    node_requests.VmmIs: {"vmm": st.none() | FOUND_VMMS},
    node_requests.AskRoom: {},
    node_requests.RoomIs: {
        "machine": st.builds(Machine, ROOM, ROOM, ROOM, ROOM),
        "taken_mib": st.dictionaries(MICROVM_ID, ROOM, max_size=3),
        "waiting": ROOM,
    },
    node_requests.AskStored: {"microvm_id": MICROVM_ID},
    node_requests.StoredIs: {"mib": ROOM},
    node_requests.ReloadNetworks: {},
    node_requests.NetworksReloaded: {"error": ERROR},
    node_requests.ReadLogs: {
        "group": OWN_GROUP,
        "stream": st.none() | PRINTED,
        "follow": st.booleans(),
    },
    node_requests.LogLines: {"lines": st.lists(LINES, max_size=3).map(tuple)},
    node_requests.OpenShell: {"microvm_id": MICROVM_ID},
    node_requests.ShellOpened: {},
    node_requests.ResizeShell: {"rows": st.integers(1, 65535), "cols": st.integers(1, 65535)},
    node_requests.ShellTaken: {"count": st.integers(1, 65536)},
    node_requests.ShellOver: {"why": st.none() | st.sampled_from(ShellEnd)},
}
TO_NODE: tuple[type, ...] = get_args(node_requests.FromService)
FROM_NODE: tuple[type, ...] = get_args(node_requests.FromNode)


def messages(kinds: tuple[type, ...]) -> st.SearchStrategy[Any]:
    """Any legal message of these kinds."""
    return st.sampled_from(kinds).flatmap(lambda kind: st.builds(kind, **FIELDS[kind]))


ID = "microvm-00000000-0000-4000-8000-000000000000"
_VERSION = node.VersionKey("000000000000", "app", "1.0")
_ARN = "arn:aws:lambda:us-east-1:000000000000:microvm-image:app"
_ROLE = "arn:aws:iam::000000000000:role/run"
_LOG = node.LogTarget("000000000000:/aws/lambda-microvms/app", f"2026/01/01[1.0]{ID}")
_REACH = Reach(f"nc-{ID[8:]}:1", IPv4Network("10.99.0.0/16"), Protocol.TCP, ((443, 443),))
SPEC = node.MicrovmSpec(
    ID,
    1,
    _VERSION,
    _ARN,
    Size.of(512),
    Hooks(9000, {HookName.RUN: HookSetting(True, 5)}),
    _LOG,
    egress=Egress(True, (_REACH,)),
    execution_role_arn=_ROLE,
    delivery=node.LogDelivery("/aws/lambda-microvms/app", "stream", _ROLE),
)
SAMPLES = (
    node.StartMicrovm(SPEC),
    node.AdoptMicrovm(SPEC, Phase.RUNNING),
    node.SuspendMicrovm(ID, 1),
    node.BuildVersion(
        _VERSION, ID[8:], _ARN, VersionConfig(_ARN, _ROLE, "s3://b/k"), _LOG, SPEC.egress
    ),
    node.DeleteVersion(_VERSION),
    node.RetireVersion(_VERSION),
    node.FreeSnapshot(replace(_VERSION, build=ID[8:])),
    node.RevokeConnector(f"nc-{ID[8:]}", (1, 2)),
    node_requests.Keep(frozenset({ID}), frozenset({_VERSION})),
    node_requests.ReadLogs(_LOG.group, _LOG.stream, follow=True),
    node_requests.OpenShell(ID),
    node_requests.ResizeShell(24, 80),
)
"""What an honest service may say, for faults to be put in."""


def spoiled(payload: bytes, rng: random.Random) -> bytes:
    """A payload with one to four faults: bytes, members, types, paths, lengths."""
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(payload) + 1)
        payload = rng.choice(
            [
                payload[:at],
                payload[:at] + rng.randbytes(rng.randrange(1, 4)) + payload[at + 1 :],
                payload[:at] + rng.choice(PIECES) + payload[at:],
                payload.replace(b'":"', b'":"' + rng.choice(PIECES), 1),
                re.sub(rb":\d+", b":" + rng.choice(NUMERALS), payload, count=1),
                re.sub(rb'"[a-z_]+":', b'"other":', payload, count=1),
                payload[at:] + payload[:at],
            ]
        )
    return payload


PIECES = (b"../", b"/", b"\\u0000", b"\\n", b"\xff", b'","x":"', b"{}", b"[", b"null", b"%s", b"\0")
NUMERALS = (b"-1", b"0", b"1e400", b"NaN", b"true", b'"1"', b"1.5", b"9" * 400)
