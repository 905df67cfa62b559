"""A Jupyter kernel behind a WebSocket. One MicroVM is one kernel of one user.

The kernel is started before the snapshot is taken, so a new notebook begins with one that runs.

A client sends {"execute": CODE, "id": ID} or {"interrupt": true}. Every client gets what the kernel
says, as {"id", "type", "content"}: type and content are those of Jupyter's messages (stream,
display_data, execute_result, error, status, ...), id is that of the cell they belong to.
"""

import asyncio
import json

from jupyter_client.manager import AsyncKernelManager
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

PORT, HOOK_PORT = 8080, 9000
LONGEST_CODE = 1 << 20
# Every MicroVM of an image begins with the same memory: the state of `random` must not be in it.
FRESH = "import random; random.seed(); del random"


class Notebook:
    def __init__(self):
        # Sockets in the file system: on TCP ports a token for all ports would reach the kernel.
        self._manager = AsyncKernelManager(transport="ipc")
        self._cells = {}
        self.clients = set()

    async def start(self):
        await self._manager.start_kernel()
        self._kernel = self._manager.client()
        self._kernel.start_channels()
        await self._kernel.wait_for_ready(timeout=120)

    def execute(self, code, cell=None):
        """Cells wait for one another, in the order of arrival."""
        message = self._kernel.execute(code, silent=cell is None, allow_stdin=False)
        if cell is not None:
            self._cells[message] = cell

    async def interrupt(self):
        await self._manager.interrupt_kernel()

    async def relay(self):
        """Pass on what the kernel says, for as long as there is a kernel."""
        while True:
            message = await self._kernel.get_iopub_msg(timeout=None)
            cell = self._cells.get(message["parent_header"].get("msg_id"))
            if cell is None:
                continue
            told = {"id": cell, "type": message["msg_type"], "content": message["content"]}
            text = json.dumps(told, default=str)
            for client in list(self.clients):
                try:
                    await client.write_message(text)
                except WebSocketClosedError:
                    self.clients.discard(client)
            if message["content"].get("execution_state") == "idle":
                del self._cells[message["parent_header"]["msg_id"]]


class Socket(WebSocketHandler):
    def initialize(self, notebook):
        self._notebook = notebook

    def check_origin(self, origin):
        """Who may come in is the edge's to say: it takes no connection without a token."""
        return True

    def open(self):
        self._notebook.clients.add(self)

    def on_close(self):
        self._notebook.clients.discard(self)

    async def on_message(self, message):
        try:
            asked = json.loads(message)
            if asked.get("interrupt"):
                await self._notebook.interrupt()
            else:
                self._notebook.execute(str(asked["execute"]), str(asked["id"]))
        except (ValueError, KeyError, AttributeError):
            await self.write_message(json.dumps({"type": "refused", "content": {}}))


class Hook(RequestHandler):
    def initialize(self, notebook):
        self._notebook = notebook

    def post(self, name):
        if name == "run":
            self._notebook.execute(FRESH)


async def main():
    notebook = Notebook()
    await notebook.start()
    known = {"notebook": notebook}
    Application(
        [("/", Socket, known)], websocket_max_message_size=LONGEST_CODE, websocket_ping_interval=30
    ).listen(PORT)
    hooks = [("/aws/lambda-microvms/runtime/v1/(ready|run)", Hook, known)]
    Application(hooks).listen(HOOK_PORT, address="127.0.0.1")
    await notebook.relay()


asyncio.run(main())
