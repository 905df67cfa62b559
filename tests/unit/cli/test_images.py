"""Requests that ``images build`` makes, and where its zip goes (moto answers as S3)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from microvmd.cli.client import Service
from microvmd.cli.images import environment, hooks_request
from microvmd.service.failure import Failure
from microvmd.settings import settings


def test_hooks_request() -> None:
    assert hooks_request(("ready", "run", "suspend"), 9000) == {
        "port": 9000,
        "microvmImageHooks": {"ready": "ENABLED"},
        "microvmHooks": {"run": "ENABLED", "suspend": "ENABLED"},
    }
    assert hooks_request(("validate",), 80) == {
        "port": 80,
        "microvmImageHooks": {"validate": "ENABLED"},
    }


def test_hooks_with_times() -> None:
    assert hooks_request(("ready:120", "run:5", "resume"), 9000) == {
        "port": 9000,
        "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 120},
        "microvmHooks": {"run": "ENABLED", "runTimeoutInSeconds": 5, "resume": "ENABLED"},
    }
    with pytest.raises(Failure, match="not a number of seconds: ready:soon"):
        hooks_request(("ready:soon",), 9000)


def test_a_name_that_is_no_hook() -> None:
    with pytest.raises(Failure, match="no such hook: start"):
        hooks_request(("ready", "start"), 9000)


def test_environment() -> None:
    assert environment(("A=1", "B=x=y", "C=")) == {"A": "1", "B": "x=y", "C": ""}
    for pair in ("A", "=x"):
        with pytest.raises(Failure, match="NAME=VALUE"):
            environment((pair,))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    (tmp_path / "config").write_text("[profile microvmd]\nregion = eu-west-1\n")
    (tmp_path / "credentials").write_text(
        "[microvmd]\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = x\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws(config={"core": {"mock_credentials": False}}):
        yield Service(settings.Settings())


def test_names_and_arns(service: Service) -> None:
    arn = service.image_arn("hello")
    assert arn == f"arn:aws:lambda:eu-west-1:{service.account}:microvm-image:hello"
    assert service.image_arn(arn) == arn
    assert service.base_image_arn == "arn:aws:lambda:eu-west-1:aws:microvm-image:al2023-1"
