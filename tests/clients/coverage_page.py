"""Writes `docs/reference/operations.md` from the models and from what the server saw.

Nothing here says that a client was tested: a cell is filled by answered requests whose user agent
is that client's, while its exercises and the golden files were carried out.
"""

import importlib.metadata
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.model import ListShape, MapShape, Shape, StructureShape

from microvmd.api.operations import Operation, load_operations
from tests.checkout import CHECKOUT
from tests.clients.exercises.registry import OFFERED
from tests.clients.models import ClientModel
from tests.clients.served import AWSCLI, BOTO3, JAVASCRIPT, RAW, ServedLog

PAGE = CHECKOUT / "docs" / "reference" / "operations.md"
DEVIATIONS = CHECKOUT / "docs" / "reference" / "deviations.toml"
_LOCK = Path(__file__).parent / "javascript" / "package.json"
_CLIENTS = (BOTO3, AWSCLI, JAVASCRIPT, RAW)

_HEAD = """# Operations

Made by `./run test tests/clients/test_operations_page.py --golden-update`, kept true by that test:
the tables come from botocore's models and from the requests that the API answered while
`tests/clients` drove it. "yes" stands where a call of that client succeeded and its answer was
checked, against this very API with only the node in memory; "raw" are the golden files. Whole walks
with real MicroVMs are in `tests/journey`.
"""


@dataclass(frozen=True, slots=True)
class Deviation:
    """Where microvmd is known to answer otherwise than AWS."""

    operations: tuple[str, ...]
    aws: str
    here: str
    why: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the clients did: with their exercises, and as raw requests of the golden files."""

    exercised: ServedLog
    golden: ServedLog
    models: Mapping[str, ClientModel]

    def log(self, client: str) -> ServedLog:
        return self.golden if client == RAW else self.exercised

    def refusals(self, operation: str) -> set[tuple[int, str]]:
        return {
            refusal
            for client in _CLIENTS
            for refusal in self.log(client).errors([client], operation)
        }


def read_deviations() -> list[Deviation]:
    found = tomllib.loads(DEVIATIONS.read_text())["deviation"]
    return [Deviation(tuple(item.pop("operations")), **item) for item in found]


def untested(evidence: Evidence) -> Iterator[str]:
    """Every operation and client that knows it without a call that succeeded."""
    for operation in OFFERED:
        for client in _CLIENTS:
            known = client == RAW or operation in evidence.models[client].operations
            if known and not evidence.log(client).succeeded(client, operation):
                yield f"{operation} by {client}"


def render(evidence: Evidence) -> str:
    operations = load_operations()
    deviations = read_deviations()
    offered = [operation for operation in operations if operation.name in OFFERED]
    others = [operation for operation in operations if operation.name not in OFFERED]
    parts = [
        _HEAD,
        _versions(),
        *_offered(evidence, offered, deviations),
        *_refusals(evidence, offered),
        *_lacking(evidence),
        *_deviations(deviations),
        *_others(evidence, others),
    ]
    return "\n".join(parts) + "\n"


def _versions() -> str:
    sdk = json.loads(_LOCK.read_text())["dependencies"]["@aws-sdk/client-lambda-microvms"]
    awscli = importlib.metadata.version("awscli")
    return (
        f"Clients: {BOTO3} {boto3.__version__}, {AWSCLI} {awscli}, {JAVASCRIPT} "
        f"(`@aws-sdk/client-lambda-microvms`) {sdk}.\n"
    )


def _offered(
    evidence: Evidence, operations: Sequence[Operation], deviations: Sequence[Deviation]
) -> Iterator[str]:
    yield f"## Offered: {len(operations)} operations\n"
    yield f"| operation | request | {' | '.join(_CLIENTS)} | deviations |"
    yield f"|---|---|{'---|' * len(_CLIENTS)}---|"
    for operation in operations:
        cells = [_cell(evidence, client, operation.name) for client in _CLIENTS]
        numbers = [
            f"[{number}](#{number})"
            for number, deviation in enumerate(deviations, 1)
            if operation.name in deviation.operations
        ]
        yield (
            f"| `{operation.name}` | `{operation.method} /{'/'.join(operation.path)}` "
            f"{operation.status} | {' | '.join(cells)} | {' '.join(numbers)} |"
        )
    yield ""


def _cell(evidence: Evidence, client: str, operation: str) -> str:
    if client != RAW and operation not in evidence.models[client].operations:
        return "not in its model"
    return "yes" if evidence.log(client).succeeded(client, operation) else "**no**"


def _refusals(evidence: Evidence, operations: Sequence[Operation]) -> Iterator[str]:
    yield "## Refusals\n"
    yield "What clients were given, and what the model has besides that no client test provokes."
    yield ""
    yield "| operation | provoked | not provoked |"
    yield "|---|---|---|"
    for operation in operations:
        seen = evidence.refusals(operation.name)
        names = {name for _, name in seen}
        rest = [shape.name for shape in operation.errors if shape.name not in names]
        provoked = ", ".join(f"{status} {_short(name)}" for status, name in sorted(seen))
        yield f"| `{operation.name}` | {provoked} | {', '.join(map(_short, sorted(rest)))} |"
    yield ""


def _short(name: str) -> str:
    return name.removesuffix("Exception")


def _lacking(evidence: Evidence) -> Iterator[str]:
    yield "## What the clients' own models lack\n"
    yield "Clients are made from models of different ages. These members are served, but this"
    yield "version of the client can neither send nor show them."
    yield ""
    yield "| client | member | in |"
    yield "|---|---|---|"
    for client, model in evidence.models.items():
        lacking: dict[str, set[str]] = {}
        for operation in load_operations():
            if operation.name in OFFERED and operation.name in model.operations:
                for shape in _structures(operation.input, operation.output):
                    for member in shape.members.keys() - model.structures.get(shape.name, set()):
                        lacking.setdefault(member, set()).add(shape.name)
        for member, names in sorted(lacking.items()):
            yield f"| {client} | `{member}` | {', '.join(sorted(names))} |"
    yield ""


def _structures(*shapes: Shape | None) -> Iterator[StructureShape]:
    """All structures below these shapes."""
    waiting, seen = list(shapes), set()
    while waiting:
        match waiting.pop():
            case StructureShape() as shape if shape.name not in seen:
                seen.add(shape.name)
                waiting += shape.members.values()
                yield shape
            case ListShape() as items:
                waiting.append(items.member)
            case MapShape() as pairs:
                waiting.append(pairs.value)


def _deviations(deviations: Sequence[Deviation]) -> Iterator[str]:
    yield "## Deviations\n"
    yield "Where AWS is known to answer otherwise, from [deviations.toml](deviations.toml). Choices"
    yield "where AWS is silent are in [choices](choices.md)."
    yield ""
    yield "| | AWS | microvmd | why |"
    yield "|---|---|---|---|"
    for number, item in enumerate(deviations, 1):
        yield f'| <a id="{number}"></a>{number} | {item.aws} | {item.here} | {item.why} |'
    yield ""


def _others(evidence: Evidence, operations: Sequence[Operation]) -> Iterator[str]:
    yield f"## Not offered: {len(operations)} operations\n"
    yield "Runtimes of Lambda functions have nothing to do with MicroVMs."
    yield ""
    yield "| operation | answer |"
    yield "|---|---|"
    for operation in operations:
        answers = sorted(evidence.refusals(operation.name))
        told = ", ".join(f"{status} {name}" for status, name in answers) or "**not asked**"
        yield f"| `{operation.name}` | {told} |"
