"""Expected errors end in two lines and exit code 1, bugs in a traceback."""

import httpx
import pytest
import typer
from botocore.exceptions import ClientError, EndpointConnectionError, ProfileNotFound

from microvmd.cli.failure import reported
from microvmd.service.context import ContextError
from microvmd.service.failure import Failure

MISSING = ClientError(
    {"Error": {"Code": "ResourceNotFoundException", "Message": "MicroVM not found: [x]"}},
    "GetMicrovm",
)


@pytest.mark.parametrize(
    ("error", "said", "next_step"),
    [
        (Failure("no such hook: x", "hooks are ready"), "no such hook: x", "hooks are ready"),
        (ContextError("no Dockerfile"), "no Dockerfile", ""),
        (ProfileNotFound(profile="microvmd"), "microvmd", "microvmd serve"),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), "127.0.0.1:1", "serve"),
        (httpx.ConnectError("refused", request=httpx.Request("GET", "http://a/")), "a", "serve"),
        (MISSING, "MicroVM not found: [x]", "microvmd ps --all"),
    ],
)
def test_reported(
    error: Exception, said: str, next_step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as exit_of, reported():
        raise error
    assert exit_of.value.exit_code == 1
    shown = capsys.readouterr().err
    assert said in shown
    assert next_step in shown
    assert ("next:" in shown) == bool(next_step)


def test_bugs_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), reported():
        _ = 1 / 0
