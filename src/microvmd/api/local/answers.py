"""Answers in the manner of other AWS services: their error bodies, and what STS hands out."""

from datetime import UTC, datetime
from functools import cache
from xml.sax.saxutils import escape

from botocore.loaders import Loader
from botocore.model import ServiceModel, StructureShape
from botocore.parsers import create_parser
from starlette.responses import Response

from microvmd.api.credentials import Identity
from microvmd.api.local.errors import error_body
from microvmd.model.caller import Caller, CallerKind

_ISSUING = frozenset({"AssumeRole", "GetSessionToken", "GetFederationToken"})


def foreign_error(service: str, code: str, message: str, status: int, request_id: str) -> Response:
    """An error as the service itself would word and wrap it."""
    media_type, body = error_body(service, code, message, status, request_id)
    return Response(body, status, media_type=media_type)


def session_of(action: str, content: bytes, caller: Identity) -> Identity | None:
    """The temporary credentials in an answer of STS, or None when the action issues none.

    They act for the account of the assumed role, which its ARN names, else for the caller's.
    """
    if action not in _ISSUING:
        return None
    parsed = create_parser("query").parse(
        {"status_code": 200, "headers": {}, "body": content}, _sts_output(action)
    )
    found = parsed.get("Credentials")
    if found is None:
        return None
    arn = parsed.get("AssumedRoleUser", {}).get("Arn", "")
    fields = arn.split(":")
    expires: datetime = found["Expiration"]
    return Identity(
        access_key=found["AccessKeyId"],
        secret_key=found["SecretAccessKey"],
        account=fields[4] if len(fields) > 4 else caller.account,
        session_token=found["SessionToken"],
        expires_at=expires.astimezone(UTC),
    )


def caller_identity(caller: Caller, access_key: str, request_id: str) -> Response:
    """The answer of GetCallerIdentity, which the local STS could only guess."""
    user_id = access_key if caller.kind is not CallerKind.ROOT else caller.account
    xml = (
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        f"<GetCallerIdentityResult><Arn>{escape(caller.arn)}</Arn>"
        f"<UserId>{escape(user_id)}</UserId><Account>{caller.account}</Account>"
        f"</GetCallerIdentityResult><ResponseMetadata><RequestId>{escape(request_id)}</RequestId>"
        "</ResponseMetadata></GetCallerIdentityResponse>"
    )
    return Response(xml, 200, media_type="text/xml")


@cache
def _sts_output(action: str) -> StructureShape:
    model = ServiceModel(Loader().load_service_model("sts", "service-2"), "sts")
    shape = model.operation_model(action).output_shape
    assert shape is not None
    return shape
