"""What comes again and again is said once in a while."""

from microvmd.control.seldom import AGAIN_S, Seldom


def test_once_in_a_while() -> None:
    now = [5.0]
    seldom = Seldom(lambda: now[0])
    assert [seldom.due(), seldom.due()] == [True, False]
    now[0] += AGAIN_S - 1
    assert not seldom.due()
    now[0] += 1
    assert [seldom.due(), seldom.due()] == [True, False]
