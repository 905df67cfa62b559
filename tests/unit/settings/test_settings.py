"""Settings: which source wins, what is refused, and that every name is reachable."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from pydantic import ValidationError

from microvmd.settings import settings
from microvmd.settings.names import setting_names, variable


@pytest.fixture(autouse=True)
def only_this_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file of the test's own, whatever the machine has."""
    file = tmp_path / "config.toml"
    file.write_text("")
    monkeypatch.setenv(settings.CONFIG_VARIABLE, str(file))
    for name in setting_names():
        monkeypatch.delenv(variable(name), raising=False)
    return file


def test_defaults() -> None:
    found = settings.load()
    assert found.api.url == "http://127.0.0.1:8480"
    assert found.edge.domain == "microvm.localhost"
    assert found.build.isolation == "microvm"
    assert found.root == Path("/var/lib/microvmd")


def test_flag_wins_over_variable_wins_over_file(
    only_this_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_this_file.write_text(
        '[build]\nisolation = "namespace"\n[api]\nport = 1000\nhost = "::1"\n'
    )
    monkeypatch.setenv("MICROVMD_API_PORT", "2000")
    found = settings.load(api={"port": 3000})
    assert (found.api.port, found.api.host, found.build.isolation) == (3000, "::1", "namespace")
    assert settings.load().api.port == 2000


def test_variables_reach_names_with_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICROVMD_BUILD_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    monkeypatch.setenv("MICROVMD_VMM_UID_FIRST", "800000")
    monkeypatch.setenv("MICROVMD_NETWORK_SUBNET", "10.77.0.0/24")
    monkeypatch.setenv("MICROVMD_BUILD_REGISTRIES", '["registry.example"]')
    found = settings.load()
    assert found.build.ca_bundle == Path("/etc/ssl/certs/ca-certificates.crt")
    assert found.vmm.uid_first == 800_000
    assert found.network.subnet == IPv4Network("10.77.0.0/24")
    assert found.build.registries == ("registry.example",)


@pytest.mark.parametrize(
    "text",
    [
        "rooot = '/var/lib/microvmd'",
        "[build]\nisolaton = 'namespace'",
        "[build]\nisolation = 'none'",
        "root = 'relative/path'",
        "account = '12'",
        "[network]\nsubnet = '10.0.0.0/31'",
        "[network]\nprefix = 'far-too-long'",
        "[network]\nprefix = 'mvm2'",
        "[aws]\nlocal = false",
        "[edge]\nport = 0",
    ],
)
def test_refused(only_this_file: Path, text: str) -> None:
    only_this_file.write_text(text)
    with pytest.raises(ValidationError):
        settings.load()


def test_named_file_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(settings.CONFIG_VARIABLE, str(tmp_path / "absent.toml"))
    with pytest.raises(settings.ConfigFileMissing):
        settings.load()


def test_a_flag_left_out_changes_nothing() -> None:
    assert settings.load(region=None).region == "us-east-1"


def test_builds_trust_what_this_process_is_told_to_trust(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert settings.load().build.ca_bundle is None
    bundle = tmp_path / "bundle.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    assert settings.load().build.ca_bundle is None, "a variable that names nothing says nothing"
    bundle.touch()
    assert settings.load().build.ca_bundle == bundle
    other = tmp_path / "other"
    assert settings.load(build={"ca_bundle": other}).build.ca_bundle == other
