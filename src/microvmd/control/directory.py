"""Who may call, in memory: every request asks it, so it never reads the store.

Filled at start and kept by ``control.accounts``, the one place that writes; so what is revoked
there is gone at the next request. Secrets stay sealed here and are opened as they are needed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from microvmd.control.sealing import Sealer
from microvmd.control.store import Transaction
from microvmd.model.account import AccessKey, Account, KeyState, User
from microvmd.model.policy import Policy

Owner = tuple[str, str]
"""Account and name of a user."""


@dataclass(slots=True)
class Directory:
    """``used`` notes the last use of a key, for ``accounts`` to write now and then."""

    sealer: Sealer
    accounts: dict[str, Account] = field(default_factory=dict)
    users: dict[Owner, User] = field(default_factory=dict)
    policies: dict[Owner, dict[str, tuple[str, Policy]]] = field(default_factory=dict)
    """By name: the text and what it says."""
    _keys: dict[str, AccessKey] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)

    def fill(self, tx: Transaction) -> None:
        """Read everything; raise SecretsLocked where the master key is another one."""
        rows = tx.identities
        for key in rows.access_keys():
            self.sealer.open(key.sealed, key.access_key)
            self._keys[key.access_key] = key
        self.accounts.update((account.account, account) for account in rows.accounts())
        self.users.update(((user.account, user.name), user) for user in rows.users())
        for account, user, name, document in rows.policies():
            self.put_policy((account, user), name, document, Policy.parse(document))

    def key(self, access_key: str, now: float) -> AccessKey | None:
        """A key that may sign now; the caller checks the signature and calls ``used``."""
        found = self._keys.get(access_key)
        return None if found is None or found.state(now) is KeyState.ENDED else found

    def secret(self, key: AccessKey) -> str:
        return self.sealer.open(key.sealed, key.access_key)

    def used(self, access_key: str, now: float) -> None:
        """Costs no write: ``taken_uses`` collects."""
        found = self._keys.get(access_key)
        if found is not None:
            self._keys[access_key] = replace(found, last_used_at=now)
            self._used.add(access_key)

    def taken_uses(self) -> list[AccessKey]:
        """Keys that were used since the last call."""
        found = [self._keys[name] for name in self._used if name in self._keys]
        self._used.clear()
        return found

    def keys_of(self, account: str, user: str | None = None) -> list[AccessKey]:
        """Oldest first, ended ones too while they are kept."""
        found = [
            key
            for key in self._keys.values()
            if key.account == account and user in (None, key.user)
        ]
        return sorted(found, key=lambda key: (key.created_at, key.access_key))

    def ended(self, now: float) -> list[AccessKey]:
        return [key for key in self._keys.values() if key.state(now) is KeyState.ENDED]

    def policies_of(self, account: str, user: str) -> tuple[Policy, ...]:
        return tuple(policy for _, policy in self.policies.get((account, user), {}).values())

    def put_key(self, key: AccessKey) -> None:
        self._keys[key.access_key] = key

    def remove_keys(self, names: Iterable[str]) -> None:
        for name in names:
            self._keys.pop(name, None)

    def put_policy(self, owner: Owner, name: str, document: str, policy: Policy) -> None:
        self.policies.setdefault(owner, {})[name] = (document, policy)

    def remove_user(self, owner: Owner) -> None:
        self.users.pop(owner, None)
        self.policies.pop(owner, None)
        self.remove_keys([key.access_key for key in self.keys_of(*owner)])
