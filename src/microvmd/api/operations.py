"""The operations of the API, read from botocore's service models.

The model is the contract and it moves, so nothing of it is restated here: routes, shapes, statuses
and error names all come from the files that the clients themselves use.
"""

from dataclasses import dataclass
from functools import cache

from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape, StructureShape

MICROVMS = "lambda-microvms"
CORE = "lambda-core"
SERVICES = ((MICROVMS, "2025-09-09"), (CORE, "2026-04-30"))

_LOCATIONS = frozenset({None, "uri", "querystring", "header"})


class UnsupportedModel(Exception):
    """A service model uses a part of rest-json that this server does not speak."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. ``path`` holds its URI segments; those of the form ``{name}`` are labels."""

    service: str
    name: str
    method: str
    path: tuple[str, ...]
    status: int
    input: StructureShape | None
    output: StructureShape | None
    errors: tuple[StructureShape, ...]

    @property
    def handler_name(self) -> str:
        """``RunMicrovm`` is handled by ``run_microvm``."""
        return xform_name(self.name)

    @property
    def explicit_nulls(self) -> bool:
        """Recorded: lambda-microvms sends unset members as null, lambda-core leaves them out."""
        return self.service == MICROVMS

    def error(self, code: str) -> StructureShape | None:
        """Find the shape of an error by its name, if this operation can answer with it."""
        return next((shape for shape in self.errors if shape.name == code), None)


@cache
def load_operations() -> tuple[Operation, ...]:
    """Read all operations of the services that this API offers."""
    loader = Loader()
    models = (
        ServiceModel(loader.load_service_model(name, "service-2", version), name)
        for name, version in SERVICES
    )
    return tuple(
        from_model(model.operation_model(name))
        for model in models
        for name in sorted(model.operation_names)
    )


def body_members(shape: StructureShape) -> dict[str, Shape]:
    """Members that travel in the JSON body, by member name."""
    return {n: m for n, m in shape.members.items() if "location" not in m.serialization}


def wire_name(name: str, member: Shape) -> str:
    """How a member is spelled on the wire."""
    return str(member.serialization.get("name", name))


def from_model(model: OperationModel) -> Operation:
    """One operation of a service model; UnsupportedModel for a part that is not spoken here."""
    for shape in (model.input_shape, model.output_shape):
        _check(shape)
    path, _, query = model.http["requestUri"].partition("?")
    if query:
        raise UnsupportedModel(f"{model.name}: a fixed query string in its URI")
    return Operation(
        service=model.service_model.service_name,
        name=model.name,
        method=model.http["method"],
        path=tuple(path.strip("/").split("/")),
        status=int(model.http.get("responseCode", 200)),
        input=model.input_shape,
        output=model.output_shape,
        errors=tuple(s for s in model.error_shapes if isinstance(s, StructureShape)),
    )


def _check(shape: StructureShape | None) -> None:
    if shape is None:
        return
    if "payload" in shape.serialization:
        raise UnsupportedModel(f"{shape.name}: a payload member")
    for name, member in shape.members.items():
        if member.serialization.get("location") not in _LOCATIONS:
            raise UnsupportedModel(f"{shape.name}.{name}: {member.serialization['location']}")
