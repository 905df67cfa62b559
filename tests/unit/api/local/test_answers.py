"""The sessions that STS hands out, by its answers."""

from datetime import UTC, datetime

import pytest

from microvmd.api.credentials import Identity
from microvmd.api.local.answers import session_of

_CALLER = Identity("AKIA", "secret", "123456789012")
_CREDENTIALS = (
    "<Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
    "<SessionToken>t</SessionToken><Expiration>2026-07-30T12:00:00Z</Expiration></Credentials>"
)


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
