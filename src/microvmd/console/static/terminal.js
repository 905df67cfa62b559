// The terminal of one MicroVM: xterm.js at a WebSocket that speaks as the endpoint's /shell does.

const holder = document.getElementById("terminal");
if (holder !== null) begin();

function begin() {
  const name = document.getElementById("microvm").dataset.microvm;
  const state = document.getElementById("terminal-state");
  const open = document.getElementById("terminal-open");
  const close = document.getElementById("terminal-close");
  const encoder = new TextEncoder();
  let terminal = null;
  let fit = null;
  let socket = null;

  function say(text) {
    state.textContent = text;
  }

  function send(data) {
    if (socket?.readyState === WebSocket.OPEN) socket.send(data);
  }

  function resized() {
    send(JSON.stringify({ type: "resize", cols: terminal.cols, rows: terminal.rows }));
  }

  function show() {
    holder.hidden = false;
    if (terminal !== null) {
      terminal.reset();
      return;
    }
    const style = getComputedStyle(document.documentElement);
    terminal = new Terminal({
      fontFamily: style.getPropertyValue("--mono").trim(),
      fontSize: 13,
      scrollback: 5000,
      theme: { background: "#0d1017", foreground: "#d5dae5", cursor: "#d5dae5" },
    });
    fit = new FitAddon.FitAddon();
    terminal.loadAddon(fit);
    terminal.open(holder);
    terminal.textarea.setAttribute("aria-label", `Terminal of ${name}`);
    fit.fit();
    terminal.onData((text) => send(encoder.encode(text)));
    terminal.onBinary((text) => send(Uint8Array.from(text, (one) => one.charCodeAt(0))));
    terminal.onResize(resized);
    new ResizeObserver(() => fit.fit()).observe(holder);
  }

  function connect() {
    show();
    say("Connecting…");
    open.hidden = true;
    close.hidden = false;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    socket = new WebSocket(`${scheme}//${location.host}/console/microvm/${encodeURIComponent(name)}/terminal`);
    socket.binaryType = "arraybuffer";
    const own = socket;
    socket.addEventListener("message", (event) => {
      if (typeof event.data !== "string") {
        terminal.write(new Uint8Array(event.data));
        return;
      }
      say("Connected");
      resized();
      terminal.focus();
    });
    socket.addEventListener("close", (event) => {
      if (own !== socket) return;
      socket = null;
      open.hidden = false;
      open.textContent = "Connect again";
      close.hidden = true;
      const why = event.reason || (event.code === 1000 ? "closed" : `connection lost (${event.code})`);
      say(`Ended: ${why}`);
      terminal.write(`\r\n\x1b[2m[${why.replaceAll("\x1b", "")}]\x1b[0m\r\n`);
    });
  }

  open.addEventListener("click", connect);
  close.addEventListener("click", () => socket?.close(1000));
}
