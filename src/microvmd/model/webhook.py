"""A receiver of events, what it wants, and how what it gets is signed.

The signature is that of Standard Webhooks (``webhook-id``, ``webhook-timestamp``,
``webhook-signature``), so that receivers need no code of ours.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

from microvmd.model.event import Event, Kind


@dataclass(frozen=True, slots=True)
class Webhook:
    """A receiver; no accounts or kinds named means all."""

    url: str
    key: bytes = field(repr=False)
    accounts: frozenset[str] = frozenset()
    kinds: frozenset[Kind] = frozenset()

    def wants(self, event: Event) -> bool:
        change = event.change
        return (not self.accounts or change.account in self.accounts) and (
            not self.kinds or change.kind in self.kinds
        )

    @property
    def name(self) -> str:
        """Under which its place is kept; a URL may hold a secret."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    def headers(self, event: Event, body: bytes, now: float) -> dict[str, str]:
        """As Standard Webhooks signs."""
        moment = str(int(now))
        signed = b".".join((event.event_id.encode(), moment.encode(), body))
        digest = hmac.new(self.key, signed, hashlib.sha256).digest()
        return {
            "content-type": "application/json",
            "webhook-id": event.event_id,
            "webhook-timestamp": moment,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }
