// A chat room in memory: every message goes to everyone in the room, and newcomers get the last ones.
'use strict';

const http = require('node:http');
const { WebSocketServer } = require('ws');

const PORT = 8080;
const HOOK_PORT = 9000;
const KEPT = 20;
const history = [];

const page = `<!doctype html><title>room</title><ul id=room></ul><form><input autofocus></form>
<script>
  const socket = new WebSocket(location.href.replace(/^http/, 'ws'));
  socket.onmessage = ({ data }) => room.append(Object.assign(document.createElement('li'), { textContent: data }));
  document.forms[0].onsubmit = (event) => {
    event.preventDefault();
    socket.send(event.target.elements[0].value);
    event.target.reset();
  };
</script>`;

const server = http.createServer((request, response) => {
  if (request.url === '/history') {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(history));
    return;
  }
  response.setHeader('content-type', 'text/html; charset=utf-8');
  response.end(page);
});

const room = new WebSocketServer({ server, maxPayload: 64 * 1024 });
room.on('connection', (socket) => {
  for (const message of history) socket.send(message);
  socket.on('message', (data, isBinary) => {
    const message = isBinary ? data : data.toString();
    if (!isBinary) {
      history.push(message);
      if (history.length > KEPT) history.shift();
    }
    for (const client of room.clients) {
      if (client.readyState === client.OPEN) client.send(message, { binary: isBinary });
    }
  });
});

// /ready tells the build that the room is open: the snapshot is taken with the server listening.
const hooks = http.createServer((request, response) => {
  response.statusCode = server.listening ? 200 : 503;
  response.end();
});

server.listen(PORT, '127.0.0.1');
hooks.listen(HOOK_PORT, '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
