"""The signature is what Standard Webhooks says, byte for byte; the URL is told to nobody."""

import base64
import hashlib
import hmac

import pytest

from microvmd.model.event import SERVICE, Event, Kind, image_change, microvm_change
from microvmd.model.webhook import Webhook
from tests.unit.control.test_store import image, microvm

KEY = bytes(range(32))
EVENT = Event(1, "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", 0.0, microvm_change(None, microvm(1)), SERVICE)


def test_the_signature() -> None:
    body = b'{"test": 2432232314}'
    headers = Webhook("http://127.0.0.1/", KEY).headers(EVENT, body, 1674087231.9)
    content = b"msg_2KWPBgLlAfxdpx2AI54pPJ85f4W.1674087231." + body
    wanted = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    assert headers == {
        "content-type": "application/json",
        "webhook-id": EVENT.event_id,
        "webhook-timestamp": "1674087231",
        "webhook-signature": f"v1,{wanted}",
    }


@pytest.mark.parametrize(
    ("accounts", "kinds", "microvms", "images"),
    [
        ((), (), True, True),
        ((microvm(1).account,), (), True, True),
        (("999999999999",), (), False, False),
        ((), (Kind.IMAGE,), False, True),
    ],
)
def test_what_it_wants(
    accounts: tuple[str, ...], kinds: tuple[Kind, ...], microvms: bool, images: bool
) -> None:
    hook = Webhook("http://127.0.0.1/", KEY, frozenset(accounts), frozenset(kinds))
    assert hook.wants(EVENT) is microvms
    assert hook.wants(Event(2, "e", 0.0, image_change(None, image()), SERVICE)) is images


def test_secrets_are_not_shown() -> None:
    hook = Webhook("http://127.0.0.1/hidden", KEY)
    assert "hidden" not in hook.name
    assert repr(KEY) not in repr(hook)
