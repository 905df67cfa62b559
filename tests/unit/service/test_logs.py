"""The service's own log, as a process writes it: JSON on standard error, no local variables."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import structlog
from microvmd.service import logs
logs.configure({level})
log = structlog.get_logger("test")
log.debug("quiet")
log.info("serve.ready", url="http://127.0.0.1:8480")
def fail(token):
    raise ValueError("no such thing")
try:
    fail("sec" + "ret")
except ValueError:
    log.exception("request.failed")
"""


def _lines(level: str = "") -> list[dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(level=level)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_each_line_is_json_with_level_and_time() -> None:
    ready, failed = _lines()
    assert ready["event"] == "serve.ready"
    assert ready["url"] == "http://127.0.0.1:8480"
    assert ready["level"] == "info"
    assert "T" in ready["timestamp"]
    assert failed["level"] == "error"


def test_a_traceback_tells_no_secrets() -> None:
    failed = _lines()[-1]
    assert "ValueError: no such thing" in failed["exception"]
    assert "secret" not in failed["exception"]


@pytest.mark.parametrize(
    ("level", "first"), [("'debug'", "quiet"), ("'warning'", "request.failed")]
)
def test_levels(level: str, first: str) -> None:
    assert _lines(level)[0]["event"] == first
