"""Decisions about accounts, users, policies and keys: made durable, then told to the directory.

Whoever asks has been authorised (service/routes/accounts.py). A secret leaves this module once, in
the answer that made it.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from microvmd.control.directory import Directory, Owner
from microvmd.control.store import Store, Transaction
from microvmd.model.account import (
    KEYS_OF_A_USER,
    POLICIES_OF_A_USER,
    AccessKey,
    Account,
    KeyState,
    User,
    check_account,
    check_account_name,
    check_policy_name,
    check_user_name,
)
from microvmd.model.errors import Conflict, NotFound, QuotaExceeded
from microvmd.model.policy import ADMINISTRATOR, Policy

DEFAULT_NAME = "default"
FIRST_USER = "admin"
ADMINISTRATOR_NAME = "AdministratorAccess"
DEFAULT_OVERLAP_S = 24 * 3600.0
_KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key and its secret, which is shown once."""

    key: AccessKey
    secret: str = field(repr=False)


class Accounts:
    """``clock`` gives wall-clock seconds."""

    def __init__(self, store: Store, directory: Directory, clock: Callable[[], float]) -> None:
        self._store = store
        self._directory = directory
        self._clock = clock

    async def open(self, default_account: str) -> None:
        """Fill the directory; the default account is there from the first start on."""
        await self._store.run(self._directory.fill)
        if default_account not in self._directory.accounts:
            await self._add_account(Account(default_account, DEFAULT_NAME, self._clock()))

    async def create_account(self, name: str, account: str | None = None) -> tuple[Account, NewKey]:
        """An account with its first user, ``admin``, who may do everything in it."""
        number = check_account(account) if account is not None else self._free_number()
        made = Account(number, check_account_name(name), self._clock())
        if number in self._directory.accounts:
            raise Conflict(f"The account {number} exists already.")
        if any(other.name == name for other in self._directory.accounts.values()):
            raise Conflict(f"An account with the name '{name}' exists already.")
        await self._add_account(made)
        await self.create_user(number, FIRST_USER)
        await self.put_policy(number, FIRST_USER, ADMINISTRATOR_NAME, ADMINISTRATOR)
        return made, await self.create_key(number, FIRST_USER)

    def accounts(self) -> list[Account]:
        return sorted(self._directory.accounts.values(), key=lambda account: account.created_at)

    async def create_user(self, account: str, name: str) -> User:
        self._account(account)
        user = User(account, check_user_name(name), self._clock())
        if (account, name) in self._directory.users:
            raise Conflict(f"The user '{name}' exists already.")
        await self._store.run(lambda tx: tx.identities.add_user(user))
        self._directory.users[account, name] = user
        return user

    def users(self, account: str) -> list[User]:
        self._account(account)
        found = [user for (owner, _), user in self._directory.users.items() if owner == account]
        return sorted(found, key=lambda user: user.name)

    async def delete_user(self, account: str, name: str) -> None:
        """With all keys, which end at once."""
        owner = self._owner(account, name)
        self._directory.remove_user(owner)
        await self._store.run(lambda tx: tx.identities.remove_user(*owner))

    async def put_policy(self, account: str, user: str, name: str, document: str) -> None:
        """Attach a policy, or replace the one of that name. Raise MalformedPolicy."""
        owner = self._owner(account, user)
        check_policy_name(name)
        policy = Policy.parse(document)
        present = self._directory.policies.get(owner, {})
        if name not in present and len(present) >= POLICIES_OF_A_USER:
            raise QuotaExceeded(f"A user can have at most {POLICIES_OF_A_USER} policies.")
        await self._store.run(lambda tx: tx.identities.put_policy(*owner, name, document))
        self._directory.put_policy(owner, name, document, policy)

    def policies(self, account: str, user: str) -> dict[str, str]:
        """Documents by name."""
        found = self._directory.policies.get(self._owner(account, user), {})
        return {name: document for name, (document, _) in sorted(found.items())}

    async def remove_policy(self, account: str, user: str, name: str) -> None:
        owner = self._owner(account, user)
        if self._directory.policies.get(owner, {}).pop(name, None) is None:
            raise NotFound(f"The user '{user}' has no policy '{name}'.")
        await self._store.run(lambda tx: tx.identities.remove_policy(*owner, name))

    async def create_key(self, account: str, user: str) -> NewKey:
        self._owner(account, user)
        now = self._clock()
        usable = [k for k in self.keys(account, user) if k.state(now) is not KeyState.ENDED]
        if len(usable) >= KEYS_OF_A_USER:
            raise QuotaExceeded(f"A user can have at most {KEYS_OF_A_USER} access keys.")
        made = self._new_key(account, user, now)
        await self._store.run(lambda tx: tx.identities.add_key(made.key))
        self._directory.put_key(made.key)
        return made

    def keys(self, account: str, user: str | None = None) -> list[AccessKey]:
        self._account(account)
        return self._directory.keys_of(account, user)

    async def rotate_key(
        self, account: str, access_key: str, overlap: float = DEFAULT_OVERLAP_S
    ) -> tuple[NewKey, AccessKey]:
        """A new key for the same user; the old one is good for ``overlap`` seconds more."""
        now = self._clock()
        old = self._key(account, access_key).rotated(now, overlap)
        made = self._new_key(account, old.user, now)

        def decide(tx: Transaction) -> None:
            tx.identities.save_key(old)
            tx.identities.add_key(made.key)

        await self._store.run(decide)
        self._directory.put_key(old)
        self._directory.put_key(made.key)
        return made, old

    async def revoke_key(self, account: str, access_key: str) -> None:
        """Gone at the next request, before the store has written it."""
        key = self._key(account, access_key)
        self._directory.remove_keys([key.access_key])
        await self._store.run(lambda tx: tx.identities.remove_key(key.access_key))

    async def tidy(self) -> None:
        """Write down when keys were last used, and forget keys that have ended; now and then."""
        used = self._directory.taken_uses()
        ended = self._directory.ended(self._clock())
        if not (used or ended):
            return

        def decide(tx: Transaction) -> None:
            for key in used:
                tx.identities.save_key(key)
            for key in ended:
                tx.identities.remove_key(key.access_key)

        await self._store.run(decide)
        self._directory.remove_keys(key.access_key for key in ended)

    async def _add_account(self, account: Account) -> None:
        await self._store.run(lambda tx: tx.identities.add_account(account))
        self._directory.accounts[account.account] = account

    def _new_key(self, account: str, user: str, now: float) -> NewKey:
        name = "AKIA" + "".join(secrets.choice(_KEY_LETTERS) for _ in range(16))
        secret = secrets.token_urlsafe(30)
        sealed = self._directory.sealer.seal(secret, name)
        return NewKey(AccessKey(name, account, user, sealed, now), secret)

    def _free_number(self) -> str:
        while (number := f"{secrets.randbelow(10**12):012d}") in self._directory.accounts:
            pass
        return number

    def _account(self, account: str) -> Account:
        found = self._directory.accounts.get(account)
        if found is None:
            raise NotFound(f"There is no account {account}.")
        return found

    def _owner(self, account: str, user: str) -> Owner:
        self._account(account)
        if (account, user) not in self._directory.users:
            raise NotFound(f"The account {account} has no user '{user}'.")
        return account, user

    def _key(self, account: str, access_key: str) -> AccessKey:
        found = self._directory.key(access_key, self._clock())
        if found is None or found.account != account:
            raise NotFound(f"The account {account} has no access key {access_key}.")
        return found
