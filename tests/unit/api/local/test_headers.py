"""What the local AWS server is told, as that server understands it."""

import httpx
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from microvmd.api.local.headers import ACCOUNT_HEADER, OURS, local_headers

ACCOUNT = "444455556666"
CALLS = {
    "sts": (b"Action=GetCallerIdentity&Version=2011-06-15", "x-www-form-urlencoded", ""),
    "iam": (b"Action=ListRoles&Version=2010-05-08", "x-www-form-urlencoded", ""),
    "logs": (b"{}", "x-amz-json-1.1", "Logs_20140328.DescribeLogGroups"),
    "kms": (b"{}", "x-amz-json-1.1", "TrentService.ListKeys"),
}


@pytest.fixture
def server() -> httpx.Client:
    application = DomainDispatcherApplication(create_backend_app)
    return httpx.Client(transport=httpx.WSGITransport(app=application), trust_env=False)


def _named(headers: list[tuple[bytes, bytes]]) -> set[str]:
    return {name.decode().lower() for name, _ in headers}


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize("region", ["eu-west-1", ""])
def test_the_server_finds_the_service(server: httpx.Client, service: str, region: str) -> None:
    body, kind, target = CALLS[service]
    headers = local_headers(service, region, ACCOUNT)
    headers += [(b"content-type", f"application/{kind}".encode())]
    headers += [(b"x-amz-target", target.encode())] if target else []
    answer = server.post("http://localhost/", headers=headers, content=body)
    assert answer.status_code == 200, answer.text


def test_the_server_finds_the_account_and_the_region(server: httpx.Client) -> None:
    headers = local_headers("sts", "", ACCOUNT)
    headers.append((b"content-type", b"application/x-www-form-urlencoded"))
    answer = server.post("http://localhost/", headers=headers, content=CALLS["sts"][0])
    assert f"<Account>{ACCOUNT}</Account>" in answer.text
    headers = local_headers("kms", "eu-west-1", ACCOUNT)
    headers += [(b"content-type", b"application/x-amz-json-1.1")]
    headers += [(b"x-amz-target", b"TrentService.CreateKey")]
    answer = server.post("http://localhost/", headers=headers, content=b"{}")
    assert answer.json()["KeyMetadata"]["Arn"].startswith(f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/")


def test_all_that_tells_the_account_is_ours() -> None:
    """A client's header of one of these names never reaches the server (relay.py)."""
    assert _named(local_headers("s3", "us-east-1", ACCOUNT)) == OURS
    assert ACCOUNT_HEADER in OURS


def test_a_region_of_a_client_stays_within_its_header() -> None:
    for region in ("ü€", "a b", "x" * 500):
        headers = dict(local_headers("s3", region, ACCOUNT))
        assert set(headers) == {b"host", b"authorization", ACCOUNT_HEADER.encode()}
        assert headers[b"authorization"].count(b"Credential=") == 1
