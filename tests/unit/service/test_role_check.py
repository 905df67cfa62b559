"""Whether a role may be assumed: asked of STS beside AWS, of the local IAM where that is wanted."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from microvmd.node.aws_access import Threads
from microvmd.node.roles import SHORTEST, RoleRefused, RoleUnavailable
from microvmd.service.keys import access_key
from microvmd.service.role_check import SESSION, role_check
from microvmd.settings.settings import Settings, load
from tests.buildlab import aws
from tests.unit.node.test_roles import Sts

pytestmark = pytest.mark.anyio

ROLE = "arn:aws:iam::123456789012:role/team/app"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with aws() as (found, _):
        yield found


def beside_aws() -> Settings:
    endpoints = {"s3_endpoint": "http://s3", "sts_endpoint": "http://sts"}
    return load(aws={"local": False, **endpoints})


@pytest.mark.parametrize(
    ("fails", "may"), [(None, True), (RoleRefused("no"), False), (RoleUnavailable("down"), True)]
)
async def test_sts_is_asked_by_assuming_the_role(
    fails: Exception | None, may: bool, tmp_path: Path
) -> None:
    sts = Sts(fails=fails)
    with Threads("test", 1) as threads:
        check = role_check(beside_aws(), access_key(tmp_path), sts, threads)
        assert check is not None
        assert await check(ROLE) is may
    assert sts.calls == [(ROLE, SESSION, SHORTEST)]


async def test_in_local_mode_nobody_is_asked(tmp_path: Path) -> None:
    with Threads("test", 1) as threads:
        assert role_check(load(), access_key(tmp_path), Sts(), threads) is None


async def test_in_local_mode_roles_may_have_to_exist(url: str, tmp_path: Path) -> None:
    iam = boto3.client(
        "iam",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    iam.create_role(RoleName="app", Path="/team/", AssumeRolePolicyDocument=json.dumps({}))
    place = urlsplit(url)
    api = {"host": place.hostname, "port": place.port}
    settings = load(aws={"roles_must_exist": True}, api=api)
    with Threads("test", 1) as threads:
        check = role_check(settings, access_key(tmp_path), Sts(), threads)
        assert check is not None
        assert await check(ROLE)
        assert not await check("arn:aws:iam::123456789012:role/other/app")
        assert not await check("arn:aws:iam::123456789012:role/none")


async def test_an_iam_that_is_down_refuses_nothing(tmp_path: Path) -> None:
    settings = load(aws={"roles_must_exist": True}, api={"port": 9})
    with Threads("test", 1) as threads:
        check = role_check(settings, access_key(tmp_path), Sts(), threads)
        assert check is not None
        assert await check(ROLE)
