"""Where the neighbours of Lambda answer, in local mode and beside AWS."""

from pathlib import Path

from microvmd.service.aws import aws_access, source_settings
from microvmd.service.keys import access_key
from microvmd.settings.settings import load


def test_in_local_mode_our_own_port_and_key(tmp_path: Path) -> None:
    key = access_key(tmp_path)
    settings = load(api={"port": 9001}, region="eu-central-1")
    access = aws_access(settings, key)
    assert access.region == "eu-central-1"
    assert {access.sts_endpoint, access.logs_endpoint} == {"http://127.0.0.1:9001"}
    assert (access.access_key, access.secret_key) == (key.access_key, key.secret_key)
    source = source_settings(settings, key)
    assert {source.s3_endpoint, source.sts_endpoint} == {"http://127.0.0.1:9001"}
    assert (source.access_key, source.secret_key) == (key.access_key, key.secret_key)


def test_beside_aws_the_endpoints_that_are_set_and_boto3s_own_keys(tmp_path: Path) -> None:
    endpoints = {"s3_endpoint": "http://s3", "sts_endpoint": "http://sts"}
    settings = load(aws={"local": False, **endpoints, "logs_endpoint": "http://logs"})
    access = aws_access(settings, access_key(tmp_path))
    assert (access.sts_endpoint, access.logs_endpoint) == ("http://sts", "http://logs")
    assert (access.access_key, access.secret_key) == (None, None)
    source = source_settings(settings, access_key(tmp_path))
    assert (source.s3_endpoint, source.sts_endpoint) == ("http://s3", "http://sts")
    assert (source.access_key, source.secret_key) == (None, None)
