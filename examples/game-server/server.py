"""A game of one MicroVM: players send scripts over a WebSocket and watch the world tick.

A client sends {"join": NAME, "script": SOURCE} once, or nothing and only watches. It gets the world
after each tick as {"tick", "robots", "coins"}, and {"error": ...} when its script was ended.
The robot of a player who goes stays, so that the game goes on and the player may come back.
"""

import asyncio
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from world import World

from scripts import LONGEST_SCRIPT, Script, ScriptError

PORT, HOOK_PORT = 8080, 9000
SECONDS = 0.25
MOST_PLAYERS = 16
MOST_FAULTS = 5
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


class Game:
    def __init__(self):
        # Made when the first one comes: what the snapshot holds is the same in every MicroVM.
        self.world = None
        self.begun = asyncio.Event()
        self.scripts = {}
        self.clients = set()
        self.numbers = {}

    async def run(self):
        """The tick loop. The clock stands still while the MicroVM is suspended."""
        await self.begun.wait()
        while True:
            await asyncio.sleep(SECONDS)
            playing = list(self.scripts.items())
            moves = await asyncio.gather(*(self._move(*player) for player in playing))
            self.world.step(dict(zip(dict(playing), moves, strict=True)))
            text = json.dumps(self.world.state())
            await asyncio.gather(*(self._tell(client, text) for client in list(self.clients)))

    async def _move(self, name, script):
        """What a player's script chose; a script that fails too often is ended."""
        robot = self.world.robots[name]
        try:
            return await script.move(self.world.view(name))
        except ScriptError as error:
            # The player may have sent another script meanwhile, which is not to blame.
            if self.scripts.get(name) is script:
                robot.faults += 1
                if script.silent or robot.faults >= MOST_FAULTS:
                    await self._end(name, str(error))
            return "stay"

    async def _end(self, name, why):
        await self.scripts.pop(name).close()
        print(f"{name} is out: {why}", flush=True)
        text = json.dumps({"error": f"the script of {name} was ended: {why}"})
        await asyncio.gather(*(self._tell(client, text) for client in list(self.clients)))

    async def _tell(self, client, text):
        try:
            async with asyncio.timeout(SECONDS):
                await client.send(text)
        except (ConnectionClosed, TimeoutError):
            self.clients.discard(client)

    async def join(self, name, source):
        """Give a player this script; the robot and its score stay when there was one before."""
        if not NAME.fullmatch(name):
            raise ScriptError("a name is small letters, digits and hyphens")
        if name not in self.numbers and len(self.numbers) >= MOST_PLAYERS:
            raise ScriptError(f"the game has {MOST_PLAYERS} players already")
        if len(source) > LONGEST_SCRIPT:
            raise ScriptError(f"a script has at most {LONGEST_SCRIPT} characters")
        script = Script(self.numbers.setdefault(name, len(self.numbers)), source)
        try:
            if name in self.scripts:
                await self.scripts.pop(name).close()
            await script.start()
        except ScriptError:
            await script.close()
            raise
        self.world.join(name)
        self.world.robots[name].faults = 0
        self.scripts[name] = script
        print(f"{name} plays", flush=True)

    async def client(self, socket):
        if self.world is None:
            self.world = World()
            self.begun.set()
        self.clients.add(socket)
        try:
            async for message in socket:
                try:
                    asked = json.loads(message)
                    await self.join(str(asked["join"]), str(asked["script"]))
                except (ScriptError, ValueError, KeyError, TypeError) as error:
                    await socket.send(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        except ConnectionClosed:
            pass
        finally:
            self.clients.discard(socket)


class Hooks(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


async def main():
    game = Game()
    async with serve(game.client, "0.0.0.0", PORT, max_size=2 * LONGEST_SCRIPT):
        hooks = HTTPServer(("127.0.0.1", HOOK_PORT), Hooks)
        threading.Thread(target=hooks.serve_forever, daemon=True).start()
        await game.run()


asyncio.run(main())
