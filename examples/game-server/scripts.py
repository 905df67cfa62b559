"""A user's script in a process of its own: asked once a tick, and ended when it does not answer.

The MicroVM keeps players of different games apart; within one game the scripts of its players are
kept apart by processes without rights: another user id, limits of memory, files and processes.
"""

import asyncio
import contextlib
import json
import os
import pwd
import resource
import signal
import sys
from pathlib import Path

RUNNER = Path(__file__).with_name("runner.py")
LONGEST_SCRIPT = 64 << 10
LONGEST_ANSWER = 4 << 10
TICK_SECONDS = 0.2
PATIENCE_SECONDS = 5
START_SECONDS = 20
MEMORY = 256 << 20
PROCESSOR_SECONDS = 600
FIRST_UID = 20_000


class ScriptError(Exception):
    """Why a script was ended; told to its player."""


class Script:
    """One player's process. `start` and `close` frame it; `move` asks it."""

    def __init__(self, number, source):
        self._uid = FIRST_UID + number
        self._source = source
        self._process = None
        self._asked = None
        self.silent = False

    async def start(self):
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(RUNNER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=LONGEST_ANSWER,
            env={},
            cwd="/",
            user=self._uid,
            group=pwd.getpwnam("player").pw_gid,
            extra_groups=[],
            start_new_session=True,
            preexec_fn=_limits,
        )
        self._send(self._source)
        try:
            await self._answer(START_SECONDS)
        except TimeoutError:
            raise ScriptError(f"not loaded within {START_SECONDS} s") from None

    async def move(self, view):
        """The direction that the script chose; it stays where it is while it thinks for longer
        than a tick. Raises ScriptError when it failed or has thought for too long."""
        now = asyncio.get_running_loop().time
        if self._asked is None:
            self._send(view)
            self._asked = now()
        try:
            direction = await self._answer(TICK_SECONDS)
        except TimeoutError:
            if now() - self._asked < PATIENCE_SECONDS:
                return "stay"
            self.silent = True
            raise ScriptError(f"no answer for {PATIENCE_SECONDS} s") from None
        except ScriptError:
            self._asked = None
            raise
        self._asked = None
        return direction

    def _send(self, value):
        self._process.stdin.write(json.dumps(value).encode() + b"\n")

    async def _answer(self, seconds):
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
            answer = json.loads(line)
        except ValueError:
            raise ScriptError("its process ended, or said something else than a move") from None
        if not isinstance(answer, dict) or "move" not in answer:
            raise ScriptError(str(answer)[:300])
        return answer["move"] if isinstance(answer["move"], str) else "stay"

    async def close(self):
        """Whatever it started has its user id and ends with it."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _limits():
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
        (resource.RLIMIT_NPROC, 1),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
