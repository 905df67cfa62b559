"""Managed connectors: defaults, refusals, and the shell's rules."""

import pytest

from microvmd.model.connector import Egress as E
from microvmd.model.connector import Ingress as I
from microvmd.model.connector import (
    allows_http,
    allows_shell,
    check_shell,
    is_own,
    managed_arn,
    resolve_egress,
    resolve_ingress,
)
from microvmd.model.errors import ValidationError

R = "us-east-1"


@pytest.mark.parametrize("asked", [None, []])
def test_omitted_and_empty_mean_the_default(asked: list[str] | None) -> None:
    assert resolve_ingress(asked, R) == (managed_arn(I.HTTP, R),)
    assert resolve_egress(asked, R) == (managed_arn(E.INTERNET, R),)


@pytest.mark.parametrize(
    ("arn", "text"),
    [
        ("ALL_INGRESS", "Malformed network connector ARN"),
        (managed_arn(I.HTTP, R)[:-12] + "LAN_EGRESS", "Unrecognized managed network connector ARN"),
    ],
)
def test_refusals(arn: str, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        resolve_egress([arn], R)


def test_no_egress_stands_alone() -> None:
    own = f"arn:aws:lambda:{R}:123456789012:network-connector:nc-1"
    none = managed_arn(E.NONE, R)
    assert none == f"arn:aws:lambda:{R}:aws:network-connector:aws-network-connector:NO_EGRESS"
    assert resolve_egress([none], R) == (none,)
    for other in (own, managed_arn(E.INTERNET, R), none):
        with pytest.raises(ValidationError, match="cannot be combined"):
            resolve_egress([none, other], R)
    with pytest.raises(ValidationError, match="Unrecognized"):
        resolve_ingress([none], R)


def test_connectors_of_an_account_are_for_egress() -> None:
    own = f"arn:aws:lambda:{R}:123456789012:network-connector:nc-1:2"
    assert resolve_egress([own], R) == (own,)
    assert (is_own(own), is_own(managed_arn(E.INTERNET, R))) == (True, False)
    with pytest.raises(ValidationError, match="not for ingress"):
        resolve_ingress([own], R)


def test_ingress_names_are_not_egress_names() -> None:
    with pytest.raises(ValidationError, match="Unrecognized"):
        resolve_egress([managed_arn(I.ALL, R)], R)


@pytest.mark.parametrize(
    ("names", "reachable"),
    [([I.HTTP], True), ([I.ALL], True), ([I.SHELL], False), ([I.NONE], False)],
)
def test_who_may_reach_the_endpoint(names: list[I], reachable: bool) -> None:
    assert allows_http([managed_arn(name, R) for name in names]) is reachable


def test_shell_rules() -> None:
    check_shell([managed_arn(I.SHELL, R), managed_arn(I.HTTP, R)])
    assert allows_shell([managed_arn(I.SHELL, R)])
    assert not allows_shell([managed_arn(I.HTTP, R)])
    assert not allows_shell([managed_arn(I.ALL, R), managed_arn(I.SHELL, R)])
    with pytest.raises(ValidationError, match="requires SHELL_INGRESS"):
        check_shell([managed_arn(I.HTTP, R)])
    with pytest.raises(ValidationError, match="ALL_INGRESS cannot be combined"):
        check_shell([managed_arn(I.ALL, R), managed_arn(I.SHELL, R)])
