"""What a request is about, as policies see it: the thing's own ARN and its tags.

Only for deciding whether a request is allowed; whether the thing exists is told by whoever carries
the request out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from microvmd.control.store import Store, Transaction
from microvmd.model.errors import ApiError
from microvmd.model.identifiers import ImageArn
from microvmd.model.vpc_connector import ConnectorRef


@dataclass(frozen=True, slots=True)
class Subject:
    """``arn`` is None for a thing that the account does not have."""

    arn: str | None
    tags: Mapping[str, str] = field(default_factory=dict)


class Subjects:
    """Reads the store; an account is shown its own things only."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def microvm(self, account: str, microvm_id: str) -> Subject:
        """Its image: MicroVMs have neither tags nor rules of their own (recorded)."""

        def read(tx: Transaction) -> Subject:
            found = tx.microvm(microvm_id)
            if found is None or found.account != account:
                return Subject(None)
            return _image(tx, account, found.image_arn)

        return await self._store.run(read)

    async def image(self, account: str, identifier: str) -> Subject:
        """An image that does not exist keeps its ARN; what is no ARN has none."""
        return await self._store.run(lambda tx: _image(tx, account, identifier))

    async def connector(self, account: str, region: str, identifier: str) -> Subject:
        """By ARN, id or name; the ARN of a policy is the one with the id."""

        def read(tx: Transaction) -> Subject:
            try:
                key = ConnectorRef.parse(identifier, account, region).key
            except ApiError:
                return Subject(identifier if identifier.startswith("arn:") else None)
            found = tx.connectors.find(account, key)
            return Subject(None) if found is None else Subject(found.arn, found.tags)

        return await self._store.run(read)


def _image(tx: Transaction, account: str, identifier: str) -> Subject:
    try:
        arn = ImageArn.parse(identifier)
    except ApiError:
        return Subject(None)
    image = tx.image(account, arn.name) if arn.account == account else None
    if image is None or image.arn != arn:
        return Subject(identifier)
    return Subject(identifier, image.tags)
