"""Wires who may call: the operator's key, the store's accounts and keys, sessions, their rights."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from microvmd.api.authorize import Authorizer
from microvmd.api.credentials import Identity, KeyRing, Roles
from microvmd.control.accounts import Accounts
from microvmd.control.directory import Directory
from microvmd.control.sealing import Sealer
from microvmd.control.sessions import Sessions
from microvmd.control.store import Store
from microvmd.control.subjects import Subjects
from microvmd.model.policy import Policy
from microvmd.service.keys import master_key

TIDY_INTERVAL_S = 60.0

ABSENT_ROLE = """{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Resource": "*",
  "Action": ["s3:Get*", "s3:List*", "kms:Decrypt", "kms:GenerateDataKey*", "kms:DescribeKey",
    "logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLog*", "logs:PutLogEvents"]}}"""
"""What a role may do that exists nowhere. The local AWS lets such roles be assumed, so that a first
image needs no set-up; they get what builds and applications need and no more."""


@dataclass(frozen=True, slots=True)
class Identities:
    """Everything the API asks about callers."""

    accounts: Accounts
    ring: KeyRing
    authorizer: Authorizer


@asynccontextmanager
async def identities(
    store: Store, keys: Path, operator: Identity, roles: Roles | None = None
) -> AsyncIterator[Identities]:
    """``keys`` is the directory of the service's own secrets, ``operator`` the default account's
    root. Raise SecretsLocked where the master key is not the one of the store."""
    sealer = Sealer(master_key(keys))
    directory = Directory(sealer)
    accounts = Accounts(store, directory, time.time)
    await accounts.open(operator.account)
    sessions = Sessions(store, sealer, time.time)
    await sessions.open()
    ring = KeyRing([operator], directory, sessions, roles, (Policy.parse(ABSENT_ROLE),))
    async with asyncio.TaskGroup() as tasks:
        tidying = tasks.create_task(_tidy(accounts))
        try:
            yield Identities(accounts, ring, Authorizer(Subjects(store)))
        finally:
            tidying.cancel()
            await accounts.tidy()


async def _tidy(accounts: Accounts) -> None:
    while True:
        await asyncio.sleep(TIDY_INTERVAL_S)
        await accounts.tidy()
