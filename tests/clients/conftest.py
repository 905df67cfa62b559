"""One running API for all client tests, and the clients that are tested against it."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.clients.exercises")

from tests.clients.client_awscli import AwsCli  # noqa: E402 - after the rewriting is asked for
from tests.clients.client_boto3 import Boto3Client  # noqa: E402
from tests.clients.client_javascript import NODE, JavaScriptSdk  # noqa: E402
from tests.clients.exercises.denied import deny_all  # noqa: E402
from tests.clients.exercises.registry import Exercises, World  # noqa: E402
from tests.clients.golden_stories import STORIES  # noqa: E402
from tests.clients.live import LiveApi, live_api  # noqa: E402
from tests.clients.outcome import Client, Outcome  # noqa: E402
from tests.clients.recorder import Recorder  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(tmp_path_factory.mktemp("api")) as found:
        yield found


@pytest.fixture(scope="session")
def javascript() -> None:
    if not NODE.exists():
        pytest.skip("needs the AWS SDK for JavaScript: ./run setup installs it")


@pytest.fixture(scope="session")
def exercises(javascript: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exercises]:
    """With an API of their own: they leave many images behind, and other tests list theirs."""
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(live_api(tmp_path_factory.mktemp("exercised")))
        clients: list[Client] = [
            Boto3Client(api),
            AwsCli(api, tmp_path_factory.mktemp("awscli")),
            JavaScriptSdk(api),
        ]
        for client in clients:
            stack.callback(client.close)
        world = World(api)
        stack.callback(world.close)
        yield Exercises(world, {client.name: client for client in clients})


@pytest.fixture(scope="session")
def denials(
    exercises: Exercises, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[tuple[str, str], Outcome]:
    """Each operation asked for by a user without any rights."""
    return deny_all(exercises.world, tmp_path_factory.mktemp("denied"))


@pytest.fixture(scope="session")
def golden_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    """An API where nothing is yet but what the golden files' own requests make."""
    with live_api(tmp_path_factory.mktemp("golden")) as found:
        yield found


@pytest.fixture(scope="session")
def exchanges(golden_api: LiveApi, pytestconfig: pytest.Config) -> Mapping[str, str]:
    """All exchanges of the golden files by name, as they are today."""
    recorder = Recorder(golden_api)
    for story in STORIES:
        story(recorder)
    if pytestconfig.getoption("--golden-update"):
        GOLDEN.mkdir(exist_ok=True)
        for path in GOLDEN.glob("*.http"):
            path.unlink()
        for name, text in recorder.texts.items():
            (GOLDEN / f"{name}.http").write_text(text)
    return recorder.texts
