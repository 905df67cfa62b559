"""Which KMS a service asks, as whom, and where plain files are."""

from pathlib import Path

import pytest

from microvmd.service.aws import aws_access
from microvmd.service.keys import access_key
from microvmd.service.vault import kms_settings
from microvmd.settings.settings import load


@pytest.mark.parametrize("seconds", [0, 30])
def test_local_mode_asks_the_own_port_and_looks_at_states(tmp_path: Path, seconds: int) -> None:
    key = access_key(tmp_path)
    settings = load(api={"port": 9000}, encryption={"key_cache_seconds": seconds})
    kms = kms_settings(settings, aws_access(settings, key))
    assert kms.kms_endpoint == kms.sts_endpoint == "http://127.0.0.1:9000"
    assert (kms.access_key, kms.secret_key) == (key.access_key, key.secret_key)
    assert kms.check_state, "moto opens data keys of a disabled key too"
    assert kms.cache_seconds == seconds


def test_elsewhere_the_machines_own_credentials_are_used(tmp_path: Path) -> None:
    aws = {
        "local": False,
        "s3_endpoint": "https://s3.example",
        "sts_endpoint": "https://sts.example",
        "kms_endpoint": "https://kms.example",
    }
    settings = load(aws=aws, region="eu-central-1")
    kms = kms_settings(settings, aws_access(settings, access_key(tmp_path)))
    assert (kms.kms_endpoint, kms.sts_endpoint) == ("https://kms.example", "https://sts.example")
    assert (kms.region, kms.access_key, kms.check_state) == ("eu-central-1", None, False)
    assert kms.cache_seconds == 60
