"""The operator's mapping: what a connector's subnets and groups open, and what stays closed."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microvmd.model.egress import (
    INTERNET,
    NOTHING,
    Egress,
    EgressMap,
    GroupRule,
    MappedSubnet,
    Protocol,
    Reach,
    grant_of,
)
from microvmd.model.vpc_connector import FailureCode, VpcEgress

ACCOUNT = "123456789012"
GRANT = grant_of("nc-1", 1)
TEN = IPv4Network("10.0.0.0/8")
WEB = ((80, 80), (443, 443))
MAP = EgressMap(
    {
        "subnet-1": MappedSubnet((TEN,)),
        "subnet-2": MappedSubnet((IPv4Network("192.168.7.0/24"),), frozenset({ACCOUNT})),
    },
    {
        "sg-web": (GroupRule(IPv4Network("0.0.0.0/0"), ports=WEB),),
        "sg-db": (GroupRule(IPv4Network("10.1.0.0/16"), ports=((5432, 5432),)),),
        "sg-none": (),
    },
)


def config(*subnets: str, groups: tuple[str, ...] | None = None) -> VpcEgress:
    return VpcEgress(subnets, "IPv4", ("MicroVm",), groups)


@pytest.mark.parametrize("groups", [None, ()])
def test_without_a_group_the_whole_subnet_is_open(groups: tuple[str, ...] | None) -> None:
    opened = MAP.reaches(ACCOUNT, GRANT, config("subnet-1", groups=groups))
    assert opened == (Reach(GRANT, TEN, Protocol.ALL),)


def test_groups_cut_subnets_and_add_to_each_other() -> None:
    opened = MAP.reaches(ACCOUNT, GRANT, config("subnet-1", groups=("sg-db", "sg-web", "sg-x")))
    assert opened == (
        Reach(GRANT, IPv4Network("10.1.0.0/16"), Protocol.TCP, ((5432, 5432),)),
        Reach(GRANT, TEN, Protocol.TCP, WEB),
    )


@pytest.mark.parametrize(
    "asked",
    [
        config("subnet-9"),
        config("subnet-1", groups=("sg-9",)),
        config("subnet-1", groups=("sg-none",)),
        config("subnet-2", groups=("sg-db",)),
    ],
)
def test_what_is_not_mapped_reaches_nothing(asked: VpcEgress) -> None:
    assert MAP.reaches(ACCOUNT, GRANT, asked) == ()
    assert EgressMap().reaches(ACCOUNT, GRANT, asked) == ()


def test_a_subnet_may_be_for_some_accounts_only() -> None:
    assert MAP.reaches(ACCOUNT, GRANT, config("subnet-2"))
    assert MAP.reaches("111122223333", GRANT, config("subnet-2")) == ()


def test_only_a_strict_mapping_fails_connectors() -> None:
    strict = EgressMap(MAP.subnets, MAP.groups, strict=True)
    assert strict.failure(ACCOUNT, config("subnet-1", groups=("sg-none",))) is None
    for asked, account, code in (
        (config("subnet-1", "subnet-9"), ACCOUNT, FailureCode.INVALID_SUBNET),
        (config("subnet-2"), "111122223333", FailureCode.INVALID_SUBNET),
        (config("subnet-1", groups=("sg-9",)), ACCOUNT, FailureCode.INVALID_SECURITY_GROUP),
    ):
        failure = strict.failure(account, asked)
        assert failure is not None
        assert failure.code is code
        assert MAP.failure(account, asked) is None


def test_a_revoked_grant_leaves_the_rest() -> None:
    other = grant_of("nc-2", 1)
    both = Egress(True, (Reach(GRANT, TEN), Reach(other, TEN)))
    assert both.without({GRANT}) == Egress(True, (Reach(other, TEN),))
    assert both.without({GRANT, other}) == INTERNET
    assert both.without({"nc-3:1"}) is both
    assert Egress(reaches=(Reach(GRANT, TEN),)).without({GRANT}) == NOTHING
    assert (INTERNET.anything, both.anything, NOTHING.anything) == (True, True, False)


networks = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(networks, networks, st.integers(0, 2**32 - 1))
def test_an_address_is_open_where_subnet_and_group_hold_it(
    subnet: IPv4Network, group: IPv4Network, number: int
) -> None:
    mapping = EgressMap({"s": MappedSubnet((subnet,))}, {"g": (GroupRule(group),)})
    egress = Egress(reaches=mapping.reaches(ACCOUNT, GRANT, config("s", groups=("g",))))
    address = IPv4Address(number)
    assert egress.names(address) is (address in subnet and address in group)


def named(*names: str, rules: tuple[GroupRule, ...] | None = None) -> Egress:
    """A subnet of names, cut by a group."""
    mapping = EgressMap(
        {"s": MappedSubnet((IPv4Network("0.0.0.0/0"),), names=names)}, {"g": rules or ()}
    )
    asked = config("s", groups=None if rules is None else ("g",))
    return Egress(reaches=mapping.reaches(ACCOUNT, GRANT, asked))


ANY = IPv4Network("0.0.0.0/0")


def test_names_open_the_web_over_tcp() -> None:
    (reach,) = named("b.test", "a.test").reaches
    assert reach == Reach(GRANT, ANY, Protocol.TCP, WEB, ("a.test", "b.test"))


@pytest.mark.parametrize(
    ("names", "rule", "left"),
    [
        (("*.test.org",), GroupRule(ANY, names=("a.test.org", "b.org")), ("a.test.org",)),
        ((), GroupRule(ANY, names=("a.org",)), ("a.org",)),
        (("a.org",), GroupRule(ANY, ports=((22, 22),)), ("a.org",)),
        (("a.org",), GroupRule(ANY, Protocol.UDP), None),
        (("a.org",), GroupRule(ANY, names=("b.org",)), None),
    ],
)
def test_names_and_groups_cut_each_other(
    names: tuple[str, ...], rule: GroupRule, left: tuple[str, ...] | None
) -> None:
    reaches = named(*names, rules=(rule,)).reaches
    assert [reach.names for reach in reaches] == ([] if left is None else [left])
    assert all(reach.ports == (rule.ports or WEB) for reach in reaches)


def test_names_are_asked_for_freely_only_with_something_else() -> None:
    narrow, wide = named("a.test"), Reach("nc-2:1", TEN)
    assert (narrow.any_name, narrow.resolves("a.test"), narrow.resolves("b.test")) == (
        False,
        True,
        False,
    )
    assert Egress(True, narrow.reaches).any_name
    assert Egress(reaches=(*narrow.reaches, wide)).any_name
    assert not NOTHING.any_name
    assert narrow.patterns == {"a.test"}
    assert Egress(reaches=(*narrow.reaches, wide)).named == narrow.reaches
