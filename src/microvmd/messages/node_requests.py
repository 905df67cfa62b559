"""What the service asks its node beside commands, each on a connection of its own.

A connection to the node's socket begins with one of these, which says what it is for:

| first message  | then                                                                           |
|----------------|--------------------------------------------------------------------------------|
| OpenControl    | Welcome or Refused; Keep as often as needed, Sweep, Swept; commands and reports |
| CheckKeys      | KeysChecked                                                                    |
| AskVmm         | VmmIs                                                                          |
| AskRoom        | RoomIs                                                                         |
| AskStored      | StoredIs                                                                       |
| ReloadNetworks | NetworksReloaded                                                               |
| ReadLogs       | LogLines as often as needed; with ``follow`` until a side hangs up             |
| OpenShell      | ShellOpened, then bytes of the terminal both ways, ResizeShell; ShellOver      |

Refused may come instead of any answer, and is the last that comes. Each way of a shell begins with
a credit of SHELL_CREDIT bytes, which bytes use up and ShellTaken gives back, so that a message is
never held up behind bytes which nobody takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from microvmd.messages.keys import KeyProblem
from microvmd.messages.node import (
    AdoptMicrovm,
    BuildFailed,
    BuildVersion,
    ChangeEgress,
    Command,
    ConnectorProvisioned,
    ConnectorRevoked,
    DeleteVersion,
    Died,
    EgressChanged,
    FreeSnapshot,
    MicrovmSpec,
    ProvisionConnector,
    Report,
    ResumeFailed,
    ResumeMicrovm,
    RetireVersion,
    RevokeConnector,
    VersionDeleted,
    VersionKey,
)
from microvmd.messages.shell import ShellEnd
from microvmd.model.capacity import Machine

SHELL_CREDIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class OpenControl:
    """Begin to command the node. There is one control connection at a time."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The node is ready for an inventory."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The node does not do what was asked; nothing follows."""

    reason: str


@dataclass(frozen=True, slots=True)
class Keep:
    """A part of the inventory."""

    microvms: frozenset[str] = frozenset()
    versions: frozenset[VersionKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Sweep:
    """The inventory is complete: remove what it does not name."""


@dataclass(frozen=True, slots=True)
class Swept:
    """Commands may come."""


@dataclass(frozen=True, slots=True)
class CheckKeys:
    """Ask KMS for what a start or resume of this MicroVM will need."""

    spec: MicrovmSpec


@dataclass(frozen=True, slots=True)
class KeysChecked:
    """``problem`` is None when they can be had, else ``text`` names the key."""

    problem: KeyProblem | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class AskVmm:
    """Which process a MicroVM's VMM is."""

    microvm_id: str


@dataclass(frozen=True, slots=True)
class Vmm:
    """The process that emulates a machine. ``pss_bytes`` is its share of memory."""

    pid: int
    start_time: int
    pss_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class VmmIs:
    """None: there is none."""

    vmm: Vmm | None = None


@dataclass(frozen=True, slots=True)
class AskRoom:
    """What the machine has, and what VMMs have taken of it."""


@dataclass(frozen=True, slots=True)
class RoomIs:
    """``taken_mib`` by the name of a control group; ``waiting`` VMMs have no guest yet."""

    machine: Machine
    taken_mib: Mapping[str, int]
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class AskStored:
    """What a resume of a SUSPENDED MicroVM writes back into its memory."""

    microvm_id: str


@dataclass(frozen=True, slots=True)
class StoredIs:
    """0 also where there is no such snapshot."""

    mib: int


@dataclass(frozen=True, slots=True)
class ReloadNetworks:
    """Read the operator's mapping of networks again, from where the operator keeps it."""


@dataclass(frozen=True, slots=True)
class NetworksReloaded:
    """``error`` is None when the mapping of now is in force."""

    error: str | None = None


@dataclass(frozen=True, slots=True)
class ReadLogs:
    """Lines of one stream, or of all streams of a group."""

    group: str
    stream: str | None
    follow: bool


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log; ``time`` in seconds since the epoch."""

    time: float
    stream: str
    message: str


@dataclass(frozen=True, slots=True)
class LogLines:
    """Some lines in order."""

    lines: tuple[LogLine, ...]


@dataclass(frozen=True, slots=True)
class OpenShell:
    """Start a shell in a RUNNING MicroVM; it ends with the connection."""

    microvm_id: str


@dataclass(frozen=True, slots=True)
class ShellOpened:
    """Bytes may flow."""


@dataclass(frozen=True, slots=True)
class ResizeShell:
    """The terminal's new size."""

    rows: int
    cols: int


@dataclass(frozen=True, slots=True)
class ShellTaken:
    """So many bytes have been taken off; either side says it to the other."""

    count: int


@dataclass(frozen=True, slots=True)
class ShellOver:
    """Nothing more comes; ``why`` is None when the shell has exited by itself."""

    why: ShellEnd | None = None


Request = (
    OpenControl | CheckKeys | AskVmm | AskRoom | AskStored | ReloadNetworks | ReadLogs | OpenShell
)
"""What a connection may begin with."""
FromService = Request | Keep | Sweep | ResizeShell | ShellTaken | Command
"""All that a node takes."""
FromNode = (
    Welcome
    | Refused
    | Swept
    | KeysChecked
    | VmmIs
    | RoomIs
    | StoredIs
    | NetworksReloaded
    | LogLines
    | ShellOpened
    | ShellTaken
    | ShellOver
    | Report
)
"""All that a node says."""


def failure_of(command: Command, reason: str) -> Report | None:
    """The report of a command that a node does not carry out, so that its state is settled; None
    where there is no state to settle."""
    match command:
        case RetireVersion() | FreeSnapshot():
            return None
        case BuildVersion():
            return BuildFailed(command.version, command.build_id, reason)
        case DeleteVersion():
            return VersionDeleted(command.version, reason)
        case ProvisionConnector():
            return ConnectorProvisioned(command.connector_id, command.number, reason)
        case RevokeConnector():
            return ConnectorRevoked(command.connector_id, command.numbers, reason)
        case ChangeEgress():
            return EgressChanged(command.microvm_id, command.generation, reason)
        case ResumeMicrovm(spec):
            return ResumeFailed(spec.microvm_id, spec.generation, reason)
        case AdoptMicrovm(spec):
            return Died(spec.microvm_id, spec.generation, reason)
    if hasattr(command, "spec"):
        return Died(command.spec.microvm_id, command.spec.generation, reason)
    return Died(command.microvm_id, command.generation, reason)
