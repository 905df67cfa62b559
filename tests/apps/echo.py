"""A WebSocket server of the standard library alone; the interpreter of an example runs it.

Each message comes back as it is, after a first one with the subprotocols that the client asked for.
"""

import base64
import hashlib
import socketserver
import struct
import threading

PORT = 8081
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        digest = hashlib.sha1((headers["sec-websocket-key"] + GUID).encode()).digest()
        answer = [
            "HTTP/1.1 101 Switching Protocols",
            "upgrade: websocket",
            "connection: Upgrade",
            "sec-websocket-accept: " + base64.b64encode(digest).decode(),
        ]
        asked = headers.get("sec-websocket-protocol", "")
        if "chat" in asked:
            answer.append("sec-websocket-protocol: chat")
        self.wfile.write(("\r\n".join(answer) + "\r\n\r\n").encode())
        self.send(1, asked.encode())
        while (frame := self.receive()) is not None:
            self.send(*frame)

    def send(self, opcode, data):
        size = len(data)
        head = bytes([0x80 | opcode])
        head += bytes([size]) if size < 126 else b"\x7e" + struct.pack("!H", size)
        self.wfile.write(head + data)

    def receive(self):
        """Opcode and data of a frame below 64 KiB, or None at the end."""
        head = self.rfile.read(2)
        if len(head) < 2 or head[0] & 15 == 8:
            return None
        size = head[1] & 127
        if size == 126:
            size = struct.unpack("!H", self.rfile.read(2))[0]
        mask = self.rfile.read(4)
        data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(size)))
        return head[0] & 15, data


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


server = Server(("127.0.0.1", PORT), Echo)
threading.Thread(target=server.serve_forever, daemon=True).start()
