"""Receivers as the operator writes them: bad secrets are refused where they are set."""

import pytest
from pydantic import ValidationError

from microvmd.settings.observe import WebhookSettings

SECRET = "whsec_" + "QUJD" * 8
URL = "http://127.0.0.1:9000/x"


def test_a_receiver() -> None:
    made = WebhookSettings.model_validate({"url": URL, "secret": SECRET})
    assert made.webhook.url == URL
    assert made.webhook.key == b"ABC" * 8
    assert SECRET not in repr(made)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"secret": "QUJD" * 8}, "openssl"),
        ({"secret": "whsec_???"}, "Base64"),
        ({"secret": "whsec_QUJD"}, "24 bytes"),
        ({"url": "ftp://127.0.0.1/"}, "scheme"),
        ({"kinds": ["else"]}, "MicroVM State Change"),
        ({"accounts": ["1"]}, "pattern"),
    ],
)
def test_what_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        WebhookSettings.model_validate({"url": URL, "secret": SECRET, **change})
