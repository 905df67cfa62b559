"""How sessions end, and that they are few."""

from microvmd.console.sessions import SESSIONS_OF_A_KEY, Sessions, Visitor
from tests.unit.control.plane import Clock

ANN = Visitor("AKIAANN", "111122223333", "arn:aws:iam::111122223333:user/ann", "192.0.2.1", "x")


def test_idle_and_longest_time_end_a_session() -> None:
    clock = Clock()
    sessions = Sessions(60, 100, clock)
    token, session = sessions.begin(ANN)
    clock.now += 50
    assert sessions.find(token) is session
    clock.now += 45
    assert sessions.find(token) is session, "its use kept it alive"
    clock.now += 10
    assert sessions.find(token) is None, "longer than the longest"
    assert sessions.all() == []
    idle, other = sessions.begin(ANN)
    clock.now += 40
    assert sessions.find(idle, use=False) is other
    clock.now += 30
    assert sessions.find(idle) is None, "what a page asks by itself is no use"


def test_ending() -> None:
    sessions = Sessions(60, 100, Clock())
    token, session = sessions.begin(ANN)
    other, _ = sessions.begin(ANN)
    sessions.end(session)
    assert sessions.find(token) is None
    assert sessions.find(other) is not None
    assert sessions.find(None) is None
    assert sessions.find("") is None


def test_the_longest_unused_make_room() -> None:
    clock = Clock()
    sessions = Sessions(1e6, 1e6, clock)
    tokens = []
    for _ in range(SESSIONS_OF_A_KEY):
        clock.now += 1
        tokens.append(sessions.begin(ANN)[0])
    clock.now += 1
    assert sessions.find(tokens[0]) is not None
    sessions.begin(ANN)
    assert len(sessions.all()) == SESSIONS_OF_A_KEY
    assert sessions.find(tokens[0]) is not None
    assert sessions.find(tokens[1]) is None


def test_secrets_differ_and_are_not_shown() -> None:
    sessions = Sessions(60, 100, Clock())
    made = [sessions.begin(ANN) for _ in range(3)]
    secrets = {token for token, _ in made} | {session.csrf for _, session in made}
    assert len(secrets) == 6
    shown = repr([session for _, session in made]) + repr(sessions.all())
    assert not any(secret in shown for secret in secrets)


def test_notices_are_told_once() -> None:
    _, session = Sessions(60, 100, Clock()).begin(ANN)
    for number in range(20):
        session.notify(str(number))
    assert [notice.text for notice in session.taken_notices()] == [str(n) for n in range(12, 20)]
    assert session.taken_notices() == []
