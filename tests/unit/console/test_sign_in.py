"""Logins as CloudTrail records them: who is proven and who only claims to be."""

from datetime import UTC, datetime

from microvmd.api.audit import HIDDEN, record
from microvmd.api.credentials import Identity
from microvmd.api.requests import RequestContext
from microvmd.console.sign_in import Attempt
from microvmd.model.caller import Caller

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ATTEMPT = Attempt("us-east-1", "192.0.2.1", "a browser", "AccessKey")


def test_who_was_let_in_is_named() -> None:
    context = RequestContext("1", "us-east-1", "AKIA", "the-id", NOW, Caller.root("1"))
    made = record(ATTEMPT.succeeded(context), NOW)
    assert made["userIdentity"]["type"] == "Root"
    assert made["requestID"] == "the-id"
    assert made["responseElements"] == {"ConsoleLogin": "Success"}
    assert made["recipientAccountId"] == "1"
    assert "errorMessage" not in made


def test_who_was_refused_proves_nothing_and_is_bounded_as_such() -> None:
    known = ATTEMPT.refused(Identity("AKIA", "the-secret", "1"))
    assert known.context is None
    made = record(known, NOW)
    assert made["userIdentity"] == {"type": "Unknown", "accountId": "1", "accessKeyId": "AKIA"}
    assert made["recipientAccountId"] == "1"
    assert "the-secret" not in str(made)
    nobody = record(ATTEMPT.refused(None, "Too many"), NOW)
    assert nobody["userIdentity"] == {"type": "Unknown", "userName": HIDDEN}
    assert nobody["errorMessage"] == "Too many"
