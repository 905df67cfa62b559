"""The link's rules as text; tests/vm/test_link.py shows what they do."""

from microvmd.node import link


def test_what_no_rule_names_is_dropped() -> None:
    lines = [line.strip() for line in link.ruleset().splitlines()]
    assert lines[0] == "table netdev link {"
    assert 'device "tap0"' in lines[2]
    assert lines[2].endswith("policy drop;")
    accepted = [line for line in lines if line.endswith("accept")]
    assert [line.split()[2] for line in accepted] == ["arp", "ip", "ip"]


def test_both_ways_are_shaped_or_neither() -> None:
    both = link.shaping(20)
    assert [line.split()[3] for line in both] == ["tap0", "eth0"]
    assert all("tbf rate 20mbit " in line for line in both)
    assert link.shaping(0) == []
