"""The curl command line that ``microvmd curl`` becomes."""

from pathlib import Path

from microvmd.cli.client import Service
from microvmd.cli.microvms import curl_command
from microvmd.settings.settings import Settings


def test_curl_command(tmp_path: Path) -> None:
    service = Service(Settings(root=tmp_path))
    argv = curl_command(
        service, "x.lambda-microvm.us-east-1.microvm.localhost:8443", "count", "TOKEN", None, ["-v"]
    )
    assert argv == [
        "curl",
        "--silent",
        "--show-error",
        "--cacert",
        f"{tmp_path}/ca/ca.pem",
        "--header",
        "X-aws-proxy-auth: TOKEN",
        "-v",
        "https://x.lambda-microvm.us-east-1.microvm.localhost:8443/count",
    ]


def test_port_is_a_header(tmp_path: Path) -> None:
    argv = curl_command(Service(Settings(root=tmp_path)), "host", "/", "T", 3000, [])
    assert "X-aws-proxy-port: 3000" in argv
    assert argv[-1] == "https://host/"
