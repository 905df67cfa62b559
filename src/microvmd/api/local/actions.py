"""What a request to S3, STS, IAM, logs or KMS asks for, in the words of policies.

What cannot be told has no resource: then only a policy on ``*`` allows it (model/policy.py).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel

from microvmd.api.local.errors import JSON_SERVICES
from microvmd.api.signed import SignedRequest
from microvmd.model.errors import AccessDenied
from microvmd.model.policy import Asked

QUERY_SERVICES = frozenset({"sts", "iam"})

# Operations of S3 whose action has another name.
_S3_ACTIONS = {
    "ListBuckets": "ListAllMyBuckets",
    "HeadBucket": "ListBucket",
    "ListObjects": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "ListObjectVersions": "ListBucketVersions",
    "ListMultipartUploads": "ListBucketMultipartUploads",
    "ListParts": "ListMultipartUploadParts",
    "HeadObject": "GetObject",
    "CopyObject": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "UploadPart": "PutObject",
    "UploadPartCopy": "PutObject",
    "CompleteMultipartUpload": "PutObject",
    "DeleteObjects": "DeleteObject",
    # Requests that have two names are told by the older one.
    "GetBucketLifecycle": "GetLifecycleConfiguration",
    "PutBucketLifecycle": "PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "PutLifecycleConfiguration",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "DeleteBucketEncryption": "PutEncryptionConfiguration",
    "GetBucketReplication": "GetReplicationConfiguration",
    "PutBucketReplication": "PutReplicationConfiguration",
    "DeleteBucketReplication": "PutReplicationConfiguration",
    "DeleteBucketCors": "PutBucketCORS",
    "DeleteBucketTagging": "PutBucketTagging",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "DeletePublicAccessBlock": "PutBucketPublicAccessBlock",
}
_IAM_RESOURCES = {"RoleName": "role", "UserName": "user", "GroupName": "group"}


@dataclass(frozen=True, slots=True)
class ForeignRequest:
    """A request of another service; ``path`` is in path style and still percent-encoded."""

    service: str
    region: str
    account: str
    signed: SignedRequest
    path: str
    body: bytes

    @property
    def parameters(self) -> dict[str, str]:
        """Of the query protocol. AccessDenied where a name has two values."""
        pairs = parse_qsl(self.signed.query, keep_blank_values=True)
        if self.service in QUERY_SERVICES:
            pairs += parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True)
        found: dict[str, str] = {}
        for name, value in pairs:
            if found.setdefault(name, value) != value:
                raise AccessDenied(f"The parameter {name} is given twice.")
        return found

    @property
    def action(self) -> str:
        """Name of the operation; empty where it cannot be told."""
        if self.service in QUERY_SERVICES:
            return self.parameters.get("Action", "")
        if self.service in JSON_SERVICES:
            targets = {v for n, v in self.signed.headers if n == "x-amz-target"}
            return targets.pop().rpartition(".")[2] if len(targets) == 1 else ""
        return _s3_operation(self.signed, *_bucket_and_key(self.path))


def asked_of(request: ForeignRequest) -> Iterator[Asked]:
    """Every right that the request needs."""
    match request.service:
        case "s3":
            yield from _s3(request)
        case "iam":
            yield Asked(f"iam:{request.action}", _iam_resource(request), {})
        case "sts":
            yield Asked(f"sts:{request.action}", _sts_resource(request), {})
        case "logs":
            yield Asked(f"logs:{request.action}", _logs_resource(request), {})
        case "kms":
            yield Asked(f"kms:{request.action}", _kms_resource(request), {})
        case _:
            yield Asked(f"{request.service}:Unknown", None, {})


def _s3(request: ForeignRequest) -> Iterator[Asked]:
    bucket, key = _bucket_and_key(request.path)
    operation = request.action
    action = f"s3:{_S3_ACTIONS.get(operation, operation or 'Unknown')}"
    # Which objects DeleteObjects means stands in its body, which is not read here.
    told = bool(operation) and operation != "DeleteObjects" and bucket is not None
    arn = f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}"
    resource = arn if bucket else "*"
    yield Asked(action, resource if told else None, {})
    source = request.signed.header("x-amz-copy-source")
    if source is not None:
        path = unquote(source.partition("?")[0]).lstrip("/")
        yield Asked("s3:GetObject", f"arn:aws:s3:::{path}" if _plain(path) else None, {})


def _bucket_and_key(path: str) -> tuple[str | None, str]:
    """None for a path that could be read in two ways."""
    text = unquote(path).removeprefix("/")
    bucket, _, key = text.partition("/")
    return (bucket if _plain(text) else None), key


def _plain(path: str) -> bool:
    return not path.startswith("/") and not {".", ".."} & set(path.split("/"))


def _s3_operation(signed: SignedRequest, bucket: str | None, key: str) -> str:
    """The most exact of the operations whose path, query and headers are all there; empty where
    there is none, or where the query means two at once."""
    query = {name for name, _ in parse_qsl(signed.query, keep_blank_values=True)}
    headers = {name for name, _ in signed.headers}
    depth = 2 if key else 1 if bucket else 0
    fitting = [
        found
        for found in _s3_operations()
        if (found.method, found.depth) == (signed.method, depth)
        and found.query <= query
        and found.headers <= headers
    ]
    best = max(fitting, key=lambda found: len(found.query) + len(found.headers), default=None)
    if best is None or not all(found.query <= best.query for found in fitting):
        return ""
    return best.name


@dataclass(frozen=True, slots=True)
class _S3Operation:
    name: str
    method: str
    depth: int
    query: frozenset[str]
    headers: frozenset[str]


@cache
def _s3_operations() -> tuple[_S3Operation, ...]:
    model = ServiceModel(Loader().load_service_model("s3", "service-2"), "s3")
    return tuple(_s3_shape(model.operation_model(name)) for name in sorted(model.operation_names))


def _s3_shape(operation: OperationModel) -> _S3Operation:
    path, _, fixed = operation.http["requestUri"].partition("?")
    shape = operation.input_shape
    members = shape.members if shape is not None else {}
    required = set(shape.required_members) if shape is not None else set()
    located: dict[str, set[str]] = {"querystring": set(), "header": set()}
    for name in required:
        where = members[name].serialization.get("location")
        if where in located:
            located[where].add(members[name].serialization["name"])
    # The two that list differ by a parameter that the model fixes in the path.
    query = {name for name, _ in parse_qsl(fixed, keep_blank_values=True)} | located["querystring"]
    headers = {name.lower() for name in located["header"]} & {"x-amz-copy-source"}
    depth = 2 if "{Key+}" in path else 1 if "{Bucket}" in path else 0
    return _S3Operation(
        operation.name, operation.http["method"], depth, frozenset(query), frozenset(headers)
    )


def _iam_resource(request: ForeignRequest) -> str | None:
    parameters = request.parameters
    if "PolicyArn" in parameters and not any(name in parameters for name in _IAM_RESOURCES):
        return parameters["PolicyArn"]
    named = [name for name in _IAM_RESOURCES if name in parameters]
    if len(named) == 1:
        kind = _IAM_RESOURCES[named[0]]
        return f"arn:aws:iam::{request.account}:{kind}/{parameters[named[0]]}"
    if not named and "PolicyName" in parameters:
        return f"arn:aws:iam::{request.account}:policy/{parameters['PolicyName']}"
    return "*" if request.action.startswith(("List", "Get")) and not named else None


def _sts_resource(request: ForeignRequest) -> str | None:
    if request.action == "AssumeRole":
        return request.parameters.get("RoleArn")
    if request.action == "GetFederationToken":
        name = request.parameters.get("Name", "")
        return f"arn:aws:sts::{request.account}:federated-user/{name}"
    return None


def _logs_resource(request: ForeignRequest) -> str | None:
    members = _json(request)
    group = members.get("logGroupName") or members.get("logGroupIdentifier")
    prefix = f"arn:aws:logs:{request.region}:{request.account}:log-group:"
    if not isinstance(group, str):
        return "*" if request.action.startswith("Describe") else None
    name = group.removeprefix(prefix).removesuffix(":*")
    stream = members.get("logStreamName")
    # Streams are made in a group, and lines are put into a stream.
    if isinstance(stream, str) and request.action not in ("CreateLogStream", "DeleteLogStream"):
        return f"{prefix}{name}:log-stream:{stream}"
    return f"{prefix}{name}:*"


def _kms_resource(request: ForeignRequest) -> str | None:
    key = _json(request).get("KeyId")
    if isinstance(key, str) and key.startswith("arn:"):
        return key if ":key/" in key else None
    if isinstance(key, str) and not key.startswith("alias/"):
        return f"arn:aws:kms:{request.region}:{request.account}:key/{key}"
    return "*" if request.action in ("CreateKey", "ListKeys", "ListAliases") else None


def _json(request: ForeignRequest) -> Mapping[str, Any]:
    try:
        found = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
