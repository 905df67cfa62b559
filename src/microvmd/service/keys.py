"""The service's own secrets: made once, kept in files of mode 0600 under ``root/keys``."""

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

ACCESS_KEY_FILE = "access-key.json"
CURSOR_KEY_FILE = "cursor.key"
METRICS_TOKEN_FILE = "metrics.token"  # noqa: S105 - a file's name
MASTER_KEY_FILE = "master.key"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """The key that ``microvmd serve`` writes into the AWS profile."""

    access_key: str
    secret_key: str = field(repr=False)


def access_key(directory: Path) -> AccessKey:
    """The key of this installation; made at the first call. The prefix is AWS's."""
    path = directory / ACCESS_KEY_FILE
    if not path.exists():
        made = AccessKey("AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30))
        content = {"accessKey": made.access_key, "secretKey": made.secret_key}
        _write(path, json.dumps(content).encode())
    found = json.loads(path.read_text())
    return AccessKey(found["accessKey"], found["secretKey"])


def cursor_key(directory: Path) -> bytes:
    """What seals the cursors of lists."""
    return _random_key(directory / CURSOR_KEY_FILE)


def master_key(directory: Path) -> bytes:
    """What seals the secrets in the store. Whoever backs up the store backs this up with it."""
    return _random_key(directory / MASTER_KEY_FILE)


def metrics_token(directory: Path) -> str:
    """What Prometheus shows when it reads the metrics."""
    path = directory / METRICS_TOKEN_FILE
    if not path.exists():
        _write(path, secrets.token_urlsafe(32).encode())
    return path.read_text()


def _random_key(path: Path) -> bytes:
    if not path.exists():
        _write(path, secrets.token_bytes(32))
    return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = path.with_suffix(".new")
    half.unlink(missing_ok=True)
    fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.rename(path)
