"""HAProxy dies, is adopted, is reloaded; routes come and go; streams of a gone guest end."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal

import pytest
import websockets.exceptions

from microvmd.edge import stats
from tests.edgeguests import WEBSOCKET_PORT, guest
from tests.edgelab import World, running, world
from tests.edgeneighbour import resident, worker


async def _processes(w: World) -> dict[str, list[int]]:
    return stats.parse_processes(await stats.command(w.settings.files.master_socket, "show proc"))


@pytest.mark.parametrize("kind", ["master", "worker"])
def test_a_killed_haproxy_comes_back_with_its_routes(kind: str) -> None:
    async def scenario() -> None:
        async with world() as w, guest("127.0.0.15"):
            await w.edge.routes.add("vm-a", "127.0.0.15")
            before = await _processes(w)
            os.kill(before[kind][0], signal.SIGKILL)
            async with asyncio.timeout(30), w.client() as client:
                while True:
                    after = await _settled(w)
                    if after and not set(after["master"]) & set(before["master"]):
                        break
                    await asyncio.sleep(0.05)
                assert (await w.get(client, "vm-a", "/", w.auth("vm-a"))).status_code == 200
            assert w.asked.empty()  # from the map, not from the resolver
            assert after["worker"] != before["worker"]

    asyncio.run(scenario())


async def _settled(w: World) -> dict[str, list[int]] | None:
    """Processes once master and worker both answer."""
    try:
        shown = await _processes(w)
        await stats.command(w.settings.files.stats_socket, "show info")
    except stats.CommandFailed:
        return None
    return shown


def test_a_new_edge_adopts_the_running_haproxy() -> None:
    async def scenario() -> None:
        async with guest("127.0.0.15"), world() as w:
            before = await _processes(w)
            async with running(w, stop=False) as second:
                assert await _processes(w) == before
                await second.routes.add("vm-a", "127.0.0.15")
                await second.routes.add("stale", "127.0.0.15")
            async with running(w, stop=False) as third:
                assert third.routes.current == {"vm-a": "127.0.0.15", "stale": "127.0.0.15"}
                await third.routes.replace({"vm-a": "127.0.0.15"})
                async with w.client() as client:
                    assert (await w.get(client, "vm-a", "/", w.auth("vm-a"))).status_code == 200
                    assert (await w.get(client, "stale", "/", w.auth("stale"))).status_code == 502
                assert await _processes(w) == before

    asyncio.run(scenario())


def test_a_changed_configuration_is_reloaded_without_losing_a_connection() -> None:
    async def scenario() -> None:
        async with guest("127.0.0.15"), world() as w, w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.15")
            headers = {**w.auth("vm-a"), "X-aws-proxy-port": str(WEBSOCKET_PORT)}
            done = asyncio.Event()
            statuses: list[int] = []

            async def ask() -> None:
                async with w.client() as fresh:
                    while not done.is_set():
                        response = await w.get(fresh, "vm-a", "/", w.auth("vm-a"))
                        statuses.append(response.status_code)

            async with w.websocket("vm-a", [], headers) as socket, asyncio.TaskGroup() as group:
                await socket.recv()
                asking = group.create_task(ask())
                before = await _processes(w)
                w.settings = dataclasses.replace(w.settings, hold_seconds=30)
                async with running(w, stop=False) as second:
                    after = await _processes(w)
                    assert after["master"] == before["master"]
                    assert after["worker"] != before["worker"]
                    await socket.send("still here")
                    assert await socket.recv() == "still here"
                    assert (await second.activity())["vm-a"].connections >= 1
                    assert (await w.get(client, "vm-a", "/", w.auth("vm-a"))).status_code == 200
                    # Its requests, too, would be cut when the route goes.
                    done.set()
                    await asking
                    assert set(statuses) == {200}
                    assert await second.routes.remove("vm-a") >= 1
                    with pytest.raises(websockets.exceptions.ConnectionClosed):
                        await asyncio.wait_for(socket.recv(), 10)

    asyncio.run(scenario())


def test_removing_a_route_ends_its_streams_and_no_others() -> None:
    async def scenario() -> None:
        async with guest("127.0.0.15"), guest("127.0.0.16"), world() as w:
            await w.edge.routes.add("vm-a", "127.0.0.15")
            await w.edge.routes.add("vm-b", "127.0.0.16")
            port = {"X-aws-proxy-port": str(WEBSOCKET_PORT)}
            async with (
                w.websocket("vm-a", [], {**w.auth("vm-a"), **port}) as first,
                w.websocket("vm-b", [], {**w.auth("vm-b"), **port}) as second,
            ):
                await first.recv()
                await second.recv()
                assert await w.edge.routes.remove("vm-a") == 1
                with pytest.raises(websockets.exceptions.ConnectionClosed):
                    await asyncio.wait_for(first.recv(), 10)
                await second.send("on")
                assert await second.recv() == "on"

    asyncio.run(scenario())


@pytest.mark.parametrize("http2", [False, True])
def test_an_address_that_changes_hands_serves_the_new_owner(http2: bool) -> None:
    """The client's connection stays; the pooled one to the former guest must not be used."""

    async def scenario() -> None:
        async with world() as w, w.client(http2=http2) as client:
            async with guest("127.0.0.15"):
                await w.edge.routes.add("vm-a", "127.0.0.15")
                assert (await w.get(client, "vm-a", "/", w.auth("vm-a"))).status_code == 200
                await w.edge.routes.remove("vm-a")
            async with guest("127.0.0.15") as heir:
                await w.edge.routes.add("vm-b", "127.0.0.15")
                auth = w.auth("vm-b")
                host = w.edge.endpoint("vm-b")
                response = await w.get(client, "vm-a", "/", auth, host=host, method="POST")
                assert response.status_code == 200
                assert len(heir.heads) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("known", ["token", "foreign token", "guess", "nothing"])
def test_requests_leave_no_memory_behind(known: str) -> None:
    """A converter of HAProxy 2.6.12 for AES-GCM would leave more than a kilobyte for each."""
    many = 1000

    async def scenario() -> None:
        async with world() as w, guest("127.0.0.15") as app, w.client() as client:
            await w.edge.routes.add("vm-a", "127.0.0.15")
            token = w.token("vm-a")
            header = {
                "token": {"X-aws-proxy-auth": token},
                "foreign token": w.auth("vm-b"),
                "guess": {"X-aws-proxy-auth": f"{token[:-22]}{'A' * 22}"},
                "nothing": {},
            }[known]
            taken = []
            for count in (many // 4, many):
                for _ in range(count):
                    await w.get(client, "vm-a", "/", header)
                app.heads.clear()
                taken.append(resident(await worker(w)))
            assert taken[1] - taken[0] < many * 512

    asyncio.run(scenario())
