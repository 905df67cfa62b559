"""The image configuration is read as hostile JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.build.image_config import DEFAULT_PATH, ImageConfig, InvalidConfig, encode, parse


def read(**config: Any) -> ImageConfig:
    return parse(json.dumps({"Docker": {"config": config}}).encode())


def test_a_full_configuration() -> None:
    config = read(
        Entrypoint=["python3"],
        Cmd=["app.py"],
        Env=["PATH=/bin", "A=b=c"],
        WorkingDir="app",
        User="1001:1001",
        ExposedPorts={"8080/tcp": {}, "53/udp": {}, "9000": {}},
        Volumes={"/data/../data2": {}},
        StopSignal="SIGINT",
        Labels={"a": "b"},
        Healthcheck={"Test": ["CMD", "true"]},
    )
    assert config == ImageConfig(
        entrypoint=("python3",),
        cmd=("app.py",),
        env=("PATH=/bin", "A=b=c"),
        working_dir="/app",
        user="1001:1001",
        exposed_ports=(8080, 9000),
        volumes=("/data2",),
        stop_signal="SIGINT",
        labels={"a": "b"},
    )
    assert config.argv == ("python3", "app.py")


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)


@given(
    st.builds(
        ImageConfig,
        entrypoint=st.lists(_TEXT, max_size=3).map(tuple),
        cmd=st.lists(_TEXT, max_size=3).map(tuple),
        env=st.lists(_TEXT.map("A={}".format), max_size=2).map(lambda env: ("PATH=/bin", *env)),
        working_dir=st.sampled_from(["/", "/app"]),
        user=_TEXT,
        exposed_ports=st.lists(st.integers(1, 65535), unique=True, max_size=3).map(tuple),
        volumes=st.sampled_from([(), ("/data",), ("/a", "/b")]),
        stop_signal=_TEXT,
        labels=st.dictionaries(_TEXT, _TEXT, max_size=2),
    )
)
def test_what_is_kept_of_a_configuration_is_read_as_it_was(config: ImageConfig) -> None:
    assert parse(encode(config)) == config


def test_an_empty_configuration_has_defaults() -> None:
    assert read() == read(Cmd=None, Env=None) == ImageConfig(env=(DEFAULT_PATH,))


@pytest.mark.parametrize(
    "config",
    [
        {"Cmd": "sh"},
        {"Cmd": [1]},
        {"Cmd": ["a\0b"]},
        {"Cmd": ["x"] * 1025},
        {"Env": ["novalue"]},
        {"Env": ["=x"]},
        {"User": 0},
        {"WorkingDir": "x" * 70_000},
        {"ExposedPorts": {"0/tcp": {}}},
        {"ExposedPorts": {"99999": {}}},
        {"ExposedPorts": {"²": {}}},
        {"ExposedPorts": {f"000001{'9' * 5000}": {}}},
        {"ExposedPorts": {"00000199999": {}}},
        {"Labels": {"a": 1}},
        {"Labels": []},
        {"Cmd": ["\ud800"]},
    ],
)
def test_a_malformed_member_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        read(**config)


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"null" + b" " * (1 << 20), b"\xff", b"[]"])
def test_what_is_no_configuration_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidConfig):
        parse(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
_NAMES = st.sampled_from(["Entrypoint", "Cmd", "Env", "WorkingDir", "ExposedPorts", "Labels"])


@given(st.dictionaries(_NAMES, _JSON))
def test_any_configuration_is_read_or_refused(config: dict[str, Any]) -> None:
    try:
        result = read(**config)
    except InvalidConfig:
        return
    assert all("=" in item for item in result.env)
    assert result.working_dir.startswith("/")


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse(data)
    except InvalidConfig:
        return
