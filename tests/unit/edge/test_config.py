"""Settings that could change the meaning of HAProxy's configuration are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from microvmd.edge.config import (
    EdgeConfigError,
    EdgeLimits,
    EdgeSettings,
    ServiceUser,
    render,
)

SETTINGS = EdgeSettings(root=Path("/srv/root"), run=Path("/srv/run"))


def _render(
    settings: EdgeSettings = SETTINGS, certificate: str = "1", user: ServiceUser | None = None
) -> tuple[str, str]:
    return render(
        settings,
        addresses=["127.0.0.1", "::1"],
        port=8443,
        user=user,
        certificate_digest=certificate,
    )


def test_every_name_is_filled_in() -> None:
    text, digest = _render()
    assert f"description {digest}" in text
    assert "bind 127.0.0.1:8443 ssl" in text
    assert "bind [::1]:8443 ssl" in text
    names = {"THREADS", "MAXCONN", "BINDS", "ROUTES_MAP", "KEYS_MAP", "SUFFIX_REGEX", "ERRORS"}
    assert not {name for name in names if f"${name}" in text}
    assert r"lambda\-microvm\.us\-east\-1\.microvm\.localhost" in text


def test_the_digest_covers_the_certificate_and_the_settings() -> None:
    digests = {_render()[1], _render()[1], _render(certificate="2")[1]}
    assert len(digests) == 2
    assert _render(user=ServiceUser("haproxy", 1, 1))[1] not in digests


def test_limits_are_by_processor_and_0_is_none() -> None:
    text, _ = _render()
    assert "set-var(txn.most_connections) var(txn.vcpus),mul(8)" in text
    assert "set-var(txn.most_streams) var(txn.vcpus),mul(64)" in text
    assert "set-var(txn.most_requests) var(txn.vcpus),mul(100)" in text
    assert "sc1_conn_cur gt" in text
    assert "sc1_gpc0_rate gt 200" in text
    none = EdgeLimits(
        connections_per_vcpu=0,
        streams_per_vcpu=0,
        requests_per_vcpu=0,
        connections_per_source=0,
        refusals_per_source=0,
    )
    text, _ = _render(replace(SETTINGS, limits=none))
    assert "txn.most_" not in text
    assert "_cur gt" not in text
    assert "_rate gt" not in text
    text, _ = _render(replace(SETTINGS, limits=replace(none, connections_per_source=7)))
    assert "sc1_conn_cur gt 7 }" in text


def test_root_gives_up_its_privileges() -> None:
    text, _ = _render(user=ServiceUser("haproxy", 1, 1))
    assert "chroot /srv/run/edge/jail\n  user haproxy\n  group haproxy" in text
    assert "setenv MICROVMD_RESOLVER unix@/resolve.sock\n" in text


@pytest.mark.parametrize("path", ["/a b", "/a\nuser root", "/a'b", "/a;b", "/a#b", "/a$b"])
def test_paths_that_would_break_the_configuration(path: str) -> None:
    with pytest.raises(EdgeConfigError):
        EdgeSettings(root=Path("/srv"), run=Path(path))


@pytest.mark.parametrize("domain", ["", "a b", "Upper.case", "a..b", "-a.b", "a.b\n", "a.$b"])
def test_domains_that_are_none(domain: str) -> None:
    with pytest.raises(EdgeConfigError):
        EdgeSettings(root=Path("/srv"), run=Path("/srv"), domain=domain)


def test_a_run_directory_too_deep_for_sockets() -> None:
    with pytest.raises(EdgeConfigError, match="too long"):
        EdgeSettings(root=Path("/srv"), run=Path("/" + "d" * 90))
