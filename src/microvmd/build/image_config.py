"""The part of an image's OCI configuration that a MicroVM needs, read as hostile JSON.

The bytes come out of a place that a Dockerfile may have taken over. Everything is checked for type
and size here, so that nobody after this module has to.
"""

import json
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field

_DOCUMENT_LIMIT = 1 << 20
_ITEMS_LIMIT = 1024
_TEXT_LIMIT = 64 << 10
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class InvalidConfig(Exception):
    """Not the configuration of an image, or one beyond every reason."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How the application starts. ``env`` items are ``NAME=value``; ports are TCP."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    exposed_ports: tuple[int, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def argv(self) -> tuple[str, ...]:
        """The process to start: the entrypoint with the command as its arguments."""
        return self.entrypoint + self.cmd


def parse(data: bytes) -> ImageConfig:
    """Read what ``inside.py`` wrote. Raises InvalidConfig, whatever the bytes are."""
    if len(data) > _DOCUMENT_LIMIT:
        raise InvalidConfig("the image configuration is too large")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidConfig("the image configuration is not JSON") from error
    config = _mapping(_mapping(_mapping(document).get("Docker")).get("config"))
    return ImageConfig(
        entrypoint=_texts(config.get("Entrypoint")),
        cmd=_texts(config.get("Cmd")),
        env=tuple(_env(_texts(config.get("Env")))),
        working_dir=_place(_text(config.get("WorkingDir")) or "/"),
        user=_text(config.get("User")),
        exposed_ports=tuple(_ports(_mapping(config.get("ExposedPorts")))),
        volumes=tuple(_place(volume) for volume in _mapping(config.get("Volumes"))),
        stop_signal=_text(config.get("StopSignal")),
        labels={name: _text(value) for name, value in _mapping(config.get("Labels")).items()},
    )


def encode(config: ImageConfig) -> bytes:
    """Of this, `parse` makes the same again."""
    members = {
        "Entrypoint": config.entrypoint,
        "Cmd": config.cmd,
        "Env": config.env,
        "WorkingDir": config.working_dir,
        "User": config.user,
        "ExposedPorts": {f"{port}/tcp": {} for port in config.exposed_ports},
        "Volumes": {volume: {} for volume in config.volumes},
        "StopSignal": config.stop_signal,
        "Labels": config.labels,
    }
    return json.dumps({"Docker": {"config": members}}, ensure_ascii=False).encode()


def port_of(text: str) -> int | None:
    """The port that a stranger's text names, if it names one; of whatever length it is."""
    number = int(text) if text.isdecimal() and len(text) <= 5 else 0
    return number if 0 < number < 65536 else None


def _mapping(value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _ITEMS_LIMIT:
        raise InvalidConfig("an object of the image configuration is malformed")
    return {_text(name): item for name, item in value.items()}


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _ITEMS_LIMIT:
        raise InvalidConfig("a list of the image configuration is malformed")
    return tuple(_text(item) for item in value)


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _TEXT_LIMIT or "\0" in value:
        raise InvalidConfig("a text of the image configuration is malformed")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidConfig("a text of the image configuration is not Unicode") from error
    return value


def _env(items: tuple[str, ...]) -> Iterator[str]:
    names = set()
    for item in items:
        name, equals, _ = item.partition("=")
        if not name or not equals:
            raise InvalidConfig("a variable of the image configuration is malformed")
        names.add(name)
        yield item
    if "PATH" not in names:
        yield DEFAULT_PATH


def _place(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def _ports(ports: dict[str, object]) -> Iterator[int]:
    for name in ports:
        port, _, protocol = name.partition("/")
        number = port_of(port) if port.isascii() else None
        if number is None:
            raise InvalidConfig("a port of the image configuration is malformed")
        if protocol in ("", "tcp"):
            yield number
