"""A call of the API as an audit log tells it: a CloudTrail record without secrets.

Shape: CloudTrail's own, event version 1.11 (its reference of record contents). What the models mark
as sensitive, and what is known to be secret whatever they say, is replaced; so is its text in an
error message. As on AWS, calls about one MicroVM are data events, all else are management events.
"""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

from microvmd.api.operations import Operation
from microvmd.api.proven import Proven
from microvmd.api.requests import RequestContext
from microvmd.api.signed import Signature
from microvmd.model.caller import Caller, CallerKind
from microvmd.model.identifiers import is_connector_arn, microvm_arn, microvm_id_in

VERSION = "1.11"
HIDDEN = "HIDDEN_DUE_TO_SECURITY_REASONS"  # CloudTrail's own words
LAMBDA = "lambda.amazonaws.com"
SOURCE = "microvmd"
"""Of calls that AWS does not have: the service's own."""
UNKNOWN = "UnknownOperation"
TEXT_LIMIT = 1024
"""Characters of a user agent and of an error message, as CloudTrail has them."""
PART_LIMIT = 16_384
"""Characters of the parameters, and of the answer: what is longer is omitted, and says so."""

_SECRET = re.compile(
    r"secret|password|payload|credential|environment|(auth|session|security).?token", re.IGNORECASE
)
_ONE_MICROVM = re.compile(
    r"(Run|Get|Suspend|Resume|Terminate)Microvm|CreateMicrovm(Shell)?AuthToken"
)
_TYPES = {
    CallerKind.ROOT: "Root",
    CallerKind.USER: "IAMUser",
    CallerKind.ROLE: "AssumedRole",
    CallerKind.FEDERATED: "FederatedUser",
}
_READS = re.compile(r"(Get|List|Describe|Head|Filter)[A-Z]")
_OBJECTS = re.compile(r"Object|Part|MultipartUpload")
_DATA = frozenset({"PutLogEvents", "GetLogEvents", "FilterLogEvents"})
_SHORTEST_SCRUBBED = 4


@dataclass(slots=True)
class Call:
    """What has become known of one call. ``region`` is the service's, ``account`` that of the key
    that it claims."""

    request_id: str
    region: str
    source_ip: str | None = None
    user_agent: str | None = None
    claim: Signature | None = None
    access_key: str | None = None
    user_name: str | None = None
    account: str | None = None
    context: RequestContext | None = None
    kind: str = "AwsApiCall"
    """The record's ``eventType``."""
    source: str = LAMBDA
    name: str = UNKNOWN
    read_only: bool = False
    data: bool = False
    parameters: Mapping[str, Any] | None = None
    elements: Mapping[str, Any] | None = None
    more: Mapping[str, Any] | None = None
    """The record's ``additionalEventData``."""
    secrets: tuple[str, ...] = ()
    """Texts that must not be in the error's message."""
    error: str | None = None
    message: str | None = None
    """Of an error; without a code where CloudTrail has none."""

    @property
    def idle(self) -> bool:
        """Whether it changed nothing and was granted: of a page that looks again and again such
        calls would be all there is in the record."""
        return self.read_only and self.error is None

    def asks(self, operation: Operation) -> None:
        """It is for this operation of the AWS surface."""
        self.name, self.read_only = operation.name, operation.method == "GET"
        self.data = _ONE_MICROVM.fullmatch(operation.name) is not None

    def with_input(self, operation: Operation, request: Mapping[str, Any]) -> None:
        """What it asks for."""
        if operation.input is not None:
            self.parameters = shown(operation.input, request)
            self.secrets = tuple(_secrets(operation.input, request))

    def with_output(self, operation: Operation, result: Mapping[str, Any]) -> None:
        """What it was answered; CloudTrail has that of calls that change something."""
        if operation.output is not None and not self.read_only:
            self.elements = shown(operation.output, result)


def of_foreign(call: Call, claim: Signature, proven: Proven | None) -> None:
    """It is for another AWS service, of which nothing but its name is known here."""
    call.source = f"{claim.service}.amazonaws.com"
    if proven is not None:
        call.context, call.name = proven.context, proven.action or UNKNOWN
    call.read_only = _READS.match(call.name) is not None
    objects = claim.service == "s3" and _OBJECTS.search(call.name) is not None
    call.data = objects or call.name in _DATA


Audit = Callable[[Call], None]


def unaudited(_call: Call) -> None:
    """Of a server that keeps no record of its calls."""


def record(call: Call, now: datetime) -> dict[str, Any]:
    """The CloudTrail record of a call that was answered at ``now``."""
    account = call.account if call.context is None else call.context.account
    # The region of a claim is text that anybody may have written.
    region = call.region if call.context is None else call.context.region
    made: dict[str, Any] = {
        "eventVersion": VERSION,
        "userIdentity": _identity(call),
        "eventTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": call.source,
        "eventName": call.name,
        "awsRegion": region,
        "sourceIPAddress": call.source_ip or "unknown",
        "userAgent": _cut(call.user_agent or ""),
        "requestParameters": _bounded(call.parameters),
        "responseElements": _bounded(call.elements),
        "requestID": call.request_id,
        "eventID": str(uuid.uuid4()),
        "readOnly": call.read_only,
        "resources": list(_resources(call, account, region)),
        "eventType": call.kind,
        "managementEvent": not call.data,
        "recipientAccountId": account,
        "eventCategory": "Data" if call.data else "Management",
    }
    if call.more is not None:
        made["additionalEventData"] = dict(call.more)
    if call.error is not None:
        made["errorCode"] = call.error
    if call.error is not None or call.message is not None:
        made["errorMessage"] = _cut(_scrubbed(call.message or "", call.secrets))
    return made


def shown(shape: Shape, value: Any) -> Any:  # noqa: ANN401 - by shape
    """A value as JSON, in CloudTrail's spelling, without what is secret."""
    if value is None:  # an item of a list that is yet to be refused
        return None
    if shape.metadata.get("sensitive"):
        return masked(value)
    match shape:
        case StructureShape():
            return {
                _camel(name): masked(value[name]) if is_secret(name) else shown(member, value[name])
                for name, member in shape.members.items()
                if value.get(name) is not None
            }
        case ListShape():
            return [shown(shape.member, item) for item in value]
        case MapShape():
            return {key: shown(shape.value, item) for key, item in value.items()}
        case _:
            return _plain(value)


def is_secret(name: str) -> bool:
    """Whether what has this name is never told."""
    return _SECRET.search(name) is not None


def masked(value: object) -> object:
    """The place of a secret; of a map its keys stay."""
    return dict.fromkeys(value, HIDDEN) if isinstance(value, Mapping) else HIDDEN


def _plain(value: object) -> object:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        case bytes():
            return HIDDEN
        case _:
            return value


def _secrets(shape: Shape, value: Any, *, within: bool = False) -> Iterator[str]:  # noqa: ANN401
    secret = within or bool(shape.metadata.get("sensitive"))
    match value:
        case Mapping() if isinstance(shape, StructureShape):
            for name, member in shape.members.items():
                if value.get(name) is not None:
                    yield from _secrets(member, value[name], within=secret or is_secret(name))
        case Mapping() if isinstance(shape, MapShape):
            for item in value.values():
                yield from _secrets(shape.value, item, within=secret)
        case list() if isinstance(shape, ListShape):
            for item in value:
                yield from _secrets(shape.member, item, within=secret)
        case str() if secret and len(value) >= _SHORTEST_SCRUBBED:
            yield value


def _scrubbed(message: str, secrets: tuple[str, ...]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        message = message.replace(secret, HIDDEN)
    return message


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}..."


def _bounded(part: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return {"omitted": True} if part is not None and _length(part) > PART_LIMIT else part


def _length(value: object) -> int:
    """About as many characters as JSON takes."""
    match value:
        case str():
            return len(value) + 2
        case Mapping():
            return sum(len(key) + 4 + _length(item) for key, item in value.items()) + 2
        case list():
            return sum(_length(item) + 2 for item in value) + 2
        case _:
            return 8


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]


def _identity(call: Call) -> dict[str, Any]:
    if call.context is None or call.context.caller is None:
        key = call.access_key or _claimed(call.claim)
        found = {"accountId": call.account, "accessKeyId": key, "userName": call.user_name}
        return {"type": "Unknown", **{k: v for k, v in found.items() if v is not None}}
    caller = call.context.caller
    identity: dict[str, Any] = {
        "type": _TYPES[caller.kind],
        "principalId": _principal(caller),
        "arn": caller.arn,
        "accountId": caller.account,
        "accessKeyId": call.context.access_key,
    }
    if caller.kind is CallerKind.USER:
        identity["userName"] = caller.name
    if caller.kind is CallerKind.ROLE:
        issuer = {
            "type": "Role",
            "principalId": caller.name,
            "arn": caller.principal_arn,
            "accountId": caller.account,
            "userName": caller.name,
        }
        identity["sessionContext"] = {"sessionIssuer": issuer}
    return identity


def _claimed(claim: Signature | None) -> str | None:
    return None if claim is None else claim.access_key[:128]


def _principal(caller: Caller) -> str:
    """There are no unique ids here: names stand for them."""
    match caller.kind:
        case CallerKind.ROOT:
            return caller.account
        case CallerKind.ROLE:
            return f"{caller.name}:{caller.arn.rpartition('/')[2]}"
        case _:
            return caller.name


def _resources(call: Call, account: str | None, region: str) -> Iterator[dict[str, str]]:
    asked = {**(call.parameters or {}), **(call.elements or {})}
    seen: set[str] = set()
    for name in ("imageIdentifier", "imageArn", "identifier", "arn", "resource"):
        arn = asked.get(name)
        if not isinstance(arn, str) or arn in seen:
            continue
        seen.add(arn)
        if (kind := _kind(arn)) is not None:
            yield {"accountId": arn.split(":")[4], "type": kind, "ARN": arn}
    microvm = asked.get("microvmId") or asked.get("microvmIdentifier")
    if isinstance(microvm, str) and account is not None:
        arn = microvm_arn(account, region, microvm_id_in(microvm, account, region))
        yield {"accountId": account, "type": "AWS::Lambda::Microvm", "ARN": arn}


def _kind(arn: str) -> str | None:
    if is_connector_arn(arn):
        return "AWS::Lambda::NetworkConnector"
    is_image = re.match(r"arn:[^:]+:lambda:[^:]*:[^:]*:microvm-image:", arn)
    return "AWS::Lambda::MicrovmImage" if is_image else None
