"""Events delivered to receivers of the operator: in order, at least once, signed.

A receiver's place in the record is part of the record, so a restart goes on where it was. What it
does not take is tried again for as long as events are kept; meanwhile it holds up nobody else.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import httpx
import structlog

from microvmd.control.event_rows import EventQuery
from microvmd.control.events import Events
from microvmd.control.insist import insist
from microvmd.control.store import Store, Transaction
from microvmd.model.event import Event
from microvmd.model.webhook import Webhook

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 300.0
ANSWER_LIMIT_S = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds between two tries: doubled from the first to the longest."""

    first_s: float = FIRST_WAIT_S
    longest_s: float = LONGEST_WAIT_S

    def after(self, tries: int) -> float:
        return min(self.longest_s, self.first_s * 2.0 ** min(tries, 30))


async def deliver(
    store: Store,
    webhooks: Sequence[Webhook],
    clock: Callable[[], float],
    waits: Waits = Waits(),
) -> None:
    """Run until cancelled, or until every receiver says that it is gone."""
    if not webhooks:
        # A client loads the certificates of the machine, and most services have no receiver.
        return
    limits = httpx.Timeout(ANSWER_LIMIT_S)
    async with (
        httpx.AsyncClient(timeout=limits, follow_redirects=False, trust_env=False) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for webhook in webhooks:
            delivery = _Delivery(store, webhook, client, clock, waits)
            tasks.create_task(insist(delivery.run, webhook.name))


class _Delivery:
    """One receiver's."""

    def __init__(
        self,
        store: Store,
        webhook: Webhook,
        client: httpx.AsyncClient,
        clock: Callable[[], float],
        waits: Waits,
    ) -> None:
        self._store = store
        self._webhook = webhook
        self._client = client
        self._clock = clock
        self._waits = waits
        self._log = log.bind(receiver=httpx.URL(webhook.url).host)

    async def run(self) -> None:
        name = self._webhook.name
        after = await self._store.run(lambda tx: tx.events.place_of(name))
        async for event in Events(self._store).read(EventQuery(), after=after, follow=True):
            if not self._webhook.wants(event):
                # Its place stays: after a restart it is looked at again, which costs less.
                continue
            if not await self._delivered(event):
                return
            await self._store.run(partial(_moved, name, event.sequence))

    async def _delivered(self, event: Event) -> bool:
        """False when the receiver says that it is gone for good."""
        tries = 0
        while True:
            refusal = await self._refusal(event)
            if refusal is None:
                if tries:
                    self._log.info("webhook.goes_on", tries=tries + 1)
                return True
            if refusal == str(HTTPStatus.GONE.value):
                self._log.warning("webhook.gone", until="the service is started again")
                return False
            wait = self._waits.after(tries)
            self._log.warning("webhook.refused", why=refusal, next_try_s=wait)
            tries += 1
            await asyncio.sleep(wait)

    async def _refusal(self, event: Event) -> str | None:
        body = json.dumps(event.envelope()).encode()
        headers = self._webhook.headers(event, body, self._clock())
        try:
            async with self._client.stream(
                "POST", self._webhook.url, content=body, headers=headers
            ) as answer:
                # The body is not read: a receiver must not fill our memory.
                return None if answer.is_success else str(answer.status_code)
        except httpx.HTTPError as error:
            return type(error).__name__


def _moved(receiver: str, sequence: int, tx: Transaction) -> None:
    tx.events.move(receiver, sequence)
