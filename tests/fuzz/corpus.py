"""Real requests of every operation, as botocore writes them, for things that exist."""

import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from botocore.awsrequest import prepare_request_dict
from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StringShape, StructureShape
from botocore.serialize import create_serializer

from microvmd.api.operations import SERVICES, Operation, load_operations
from tests.clients.live import ACCOUNT, REGION
from tests.fuzz.signing import Raw

IMAGE = f"arn:aws:lambda:{REGION}:{ACCOUNT}:microvm-image:"
MANAGED = f"arn:aws:lambda:{REGION}:aws:microvm-image:al2023-1"
CONNECTOR = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/build"
OPERATIONS = load_operations()

_SERIALIZER = create_serializer("rest-json", include_validation=False)
_MODELS = {
    name: ServiceModel(Loader().load_service_model(name, "service-2", version), name)
    for name, version in SERVICES
}


@dataclass
class World:
    """What exists in the service under test; requests name it most of the time."""

    images: list[str] = field(default_factory=list)
    microvms: list[str] = field(default_factory=list)
    builds: list[str] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)

    def value(self, name: str, rng: random.Random) -> str | None:
        """A real value for a member of this name, if there is one."""
        known: dict[str, list[str]] = {
            "imageidentifier": [*self.images, *self.images, MANAGED, f"{IMAGE}none"],
            "resource": [*self.images, f"{IMAGE}none"],
            "microvmidentifier": self.microvms,
            "buildid": self.builds,
            "nexttoken": self.cursors,
            "marker": self.cursors,
            "name": [f"image-{rng.randrange(1000)}"],
            "imageversion": ["1.0", "1.0", "1", "2.0"],
            "baseimagearn": [MANAGED],
            "baseimageversion": ["1", "0"],
            "buildrolearn": [ROLE],
            "executionrolearn": [ROLE],
            "operatorrole": [ROLE],
            "uri": ["s3://bucket/key.zip", "s3://bucket/fails.zip"],
            "ingressnetworkconnectors": [f"{CONNECTOR}HTTP_INGRESS", f"{CONNECTOR}SHELL_INGRESS"],
            "egressnetworkconnectors": [f"{CONNECTOR}INTERNET_EGRESS"],
            "kmskeyidentifier": ["alias/key"],
            "identifier": ["connector", f"arn:aws:lambda:{REGION}:{ACCOUNT}:network-connector:c"],
            "subnetids": ["subnet-1"],
            "securitygroupids": ["sg-1"],
            "clienttoken": [f"token-{rng.randrange(50)}"],
            "loggroup": ["/aws/lambda-microvms/app"],
            "logstream": ["stream"],
        }
        options = known.get(name.lower())
        return rng.choice(options) if options else None


def real_request(operation: Operation, world: World, rng: random.Random) -> Raw:
    """A request that a client could send. Without Host and signature."""
    shape = operation.input
    values = {} if shape is None else _structure(shape, world, rng)
    model = _MODELS[operation.service].operation_model(operation.name)
    request = _SERIALIZER.serialize_to_request(values, model)
    prepare_request_dict(request, "http://localhost", context={})
    split = urlsplit(request["url"])
    headers = [(name.encode(), str(value).encode()) for name, value in request["headers"].items()]
    target = split.path + (f"?{split.query}" if split.query else "")
    return Raw(request["method"], target, headers, request["body"] or b"")


def _structure(shape: StructureShape, world: World, rng: random.Random) -> dict[str, Any]:
    if shape.is_tagged_union:
        name = rng.choice(list(shape.members))
        return {name: _value(name, shape.members[name], world, rng)}
    return {
        name: _value(name, member, world, rng)
        for name, member in shape.members.items()
        if name in shape.required_members or rng.random() < 0.3
    }


def _value(name: str, shape: Shape, world: World, rng: random.Random) -> Any:
    match shape:
        case StructureShape():
            return _structure(shape, world, rng)
        case ListShape():
            least = max(1, shape.metadata.get("min", 0))
            return [_value(name, shape.member, world, rng) for _ in range(least)]
        case MapShape():
            return {f"K{rng.randrange(9)}": _value(name, shape.value, world, rng)}
        case StringShape() if shape.enum:
            return rng.choice(shape.enum)
    match shape.type_name:
        case "boolean":
            return rng.random() < 0.5
        case "integer" | "long":
            if name == "minimumMemoryInMiB":
                return rng.choice([512, 1024, 2048])
            least, most = shape.metadata.get("min", 0), shape.metadata.get("max", 100)
            return rng.choice([least, most, rng.randint(least, max(least, most))])
    known = world.value(name, rng)
    if known is not None:
        return known
    return "a" * max(1, shape.metadata.get("min", 1)) + str(rng.randrange(10))
