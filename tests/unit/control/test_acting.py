"""The actor of a decision reaches tasks and other threads, and ends with its context."""

import asyncio

import pytest

from microvmd.control.acting import acting, current_actor
from microvmd.model.event import SERVICE, Actor, ActorKind

pytestmark = pytest.mark.anyio
ANN = Actor(ActorKind.CALLER, "ann")


async def test_tasks_and_threads_inherit_it() -> None:
    async def inner() -> Actor:
        return current_actor()

    with acting(ANN):
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(inner())
        assert task.result() == ANN
        assert await asyncio.to_thread(current_actor) == ANN
    assert current_actor() == SERVICE


def test_it_ends_with_an_error_too() -> None:
    with pytest.raises(RuntimeError), acting(ANN):
        raise RuntimeError
    assert current_actor() == SERVICE
