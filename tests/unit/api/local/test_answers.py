"""Errors of other services as botocore reads them, and the sessions that STS hands out."""

from datetime import UTC, datetime

import pytest
from botocore.model import StructureShape
from botocore.parsers import create_parser

from microvmd.api.credentials import Identity
from microvmd.api.local.answers import foreign_error, session_of

_CALLER = Identity("AKIA", "secret", "123456789012")
_EMPTY = StructureShape("Empty", {"type": "structure", "members": {}})
_CREDENTIALS = (
    "<Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
    "<SessionToken>t</SessionToken><Expiration>2026-07-30T12:00:00Z</Expiration></Credentials>"
)


@pytest.mark.parametrize(
    ("service", "protocol", "code"),
    [
        ("s3", "rest-xml", "SignatureDoesNotMatch"),
        ("sts", "query", "SignatureDoesNotMatch"),
        ("iam", "query", "SignatureDoesNotMatch"),
        ("logs", "json", "InvalidSignatureException"),
        ("kms", "json", "InvalidSignatureException"),
    ],
)
def test_each_service_words_it_in_its_manner(service: str, protocol: str, code: str) -> None:
    response = foreign_error(service, "InvalidSignatureException", "a < b & c", 403, "number")
    parsed = create_parser(protocol).parse(
        {"status_code": 403, "headers": dict(response.headers), "body": bytes(response.body)},
        _EMPTY,
    )
    assert (parsed["Error"]["Code"], parsed["Error"]["Message"]) == (code, "a < b & c")


def _answer(action: str, inside: str) -> bytes:
    return (
        f"<{action}Response><{action}Result>{inside}</{action}Result></{action}Response>".encode()
    )


def test_assumed_role_acts_for_the_roles_account() -> None:
    user = (
        "<AssumedRoleUser><Arn>arn:aws:sts::210987654321:assumed-role/r/s</Arn></AssumedRoleUser>"
    )
    session = session_of("AssumeRole", _answer("AssumeRole", _CREDENTIALS + user), _CALLER)
    assert session == Identity(
        "ASIA", "s", "210987654321", "t", datetime(2026, 7, 30, 12, tzinfo=UTC)
    )


def test_session_token_acts_for_the_caller() -> None:
    session = session_of("GetSessionToken", _answer("GetSessionToken", _CREDENTIALS), _CALLER)
    assert session is not None
    assert session.account == "123456789012"


@pytest.mark.parametrize("action", ["GetCallerIdentity", "", "GetSessionToken"])
def test_other_answers_hold_no_session(action: str) -> None:
    assert session_of(action, _answer("GetSessionToken", ""), _CALLER) is None
