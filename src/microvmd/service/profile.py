"""The AWS profile through which unmodified clients find this service.

One section in each of the two files of the AWS clients is ours; every other line stays as it is,
comments and order included, and a half-written file is never seen.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AwsFiles:
    """The two files that every AWS SDK reads."""

    config: Path
    credentials: Path

    @classmethod
    def of_user(cls) -> "AwsFiles":
        """Where the SDKs look: their two variables, else ``~/.aws``."""
        home = Path("~/.aws").expanduser()
        return cls(
            config=Path(os.environ.get("AWS_CONFIG_FILE", home / "config")).expanduser(),
            credentials=Path(
                os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials")
            ).expanduser(),
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """What a client must know. ``ca_bundle`` is for an API behind TLS of our own."""

    name: str
    endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str
    ca_bundle: Path | None = None


def write(profile: Profile, files: AwsFiles) -> bool:
    """Put the profile into both files; False when they already say so."""
    config = {
        "region": profile.region,
        "endpoint_url": profile.endpoint_url,
        # Path style: bucket names are no host names here.
        "s3": "\n    addressing_style = path",
    }
    if profile.ca_bundle is not None:
        config["ca_bundle"] = os.fspath(profile.ca_bundle)
    credentials = {
        "aws_access_key_id": profile.access_key_id,
        "aws_secret_access_key": profile.secret_access_key,
    }
    header = profile.name if profile.name == "default" else f"profile {profile.name}"
    changed = _put(files.config, header, config, mode=0o644)
    return _put(files.credentials, profile.name, credentials, mode=0o600) or changed


def replace_section(text: str, header: str, values: dict[str, str]) -> str:
    """``text`` with the section ``[header]`` holding exactly ``values``, in its old place."""
    kept: list[str] = []
    at: int | None = None
    inside = False
    for line in text.splitlines():
        name = _section_name(line)
        if name is not None:
            inside = name == header
            if inside and at is None:
                at = len(kept)
        if not inside:
            kept.append(line)
    section = [f"[{header}]"]
    for key, value in values.items():
        section.append(f"{key} ={'' if value.startswith(chr(10)) else ' '}{value}")
    if at is None:
        at = len(kept)
        if kept and kept[-1].strip():
            section.insert(0, "")
    elif at < len(kept):
        section.append("")
    return "\n".join([*kept[:at], *section, *kept[at:]]) + "\n"


def _section_name(line: str) -> str | None:
    stripped = line.split("#", 1)[0].split(";", 1)[0].strip()
    if line[:1] == "[" and stripped.endswith("]"):
        return " ".join(stripped[1:-1].split())
    return None


def _put(path: Path, header: str, values: dict[str, str], *, mode: int) -> bool:
    # A dotfile repository may hold the real file: replace that, not the link to it.
    target = path.resolve()
    before = target.read_text() if target.exists() else ""
    after = replace_section(before, header, values)
    if after == before:
        return False
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if target.exists():
        mode = target.stat().st_mode & 0o777
    descriptor, half = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(after)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if target.exists():
                owner = target.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(file.fileno())
        Path(half).replace(target)
    except BaseException:
        Path(half).unlink(missing_ok=True)
        raise
    return True
