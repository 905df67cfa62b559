"""How a call looks as one line."""

import re

import pytest

from microvmd.api.audit import Call, record
from microvmd.api.authenticate import wall_clock
from microvmd.cli.audit import shown
from tests.unit.service.test_audit_log import call

ARN = "arn:aws:iam::123456789012:user/ann"
TOLD = {"microvmId": "microvm-1"}


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (call(elements=TOLD), f"RunMicrovm microvm-1  by {ARN} from 127.0.0.1  ok"),
        (
            call("ListMicrovms", None, error="MissingAuthenticationTokenException", message="no"),
            "ListMicrovms  by nobody from 127.0.0.1  MissingAuthenticationTokenException: no",
        ),
    ],
)
def test_one_line(made: Call, text: str) -> None:
    line = shown(record(made, wall_clock()))
    assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  {re.escape(text)}", line), line
