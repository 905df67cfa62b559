"""A counter in memory. It goes on where it was after a suspend, and every MicroVM has its own."""

import os
import socket
import threading

from flask import Flask, jsonify

app = Flask(__name__)
lock = threading.Lock()
count = 0


@app.get("/")
def hello():
    image = os.environ.get("AWS_LAMBDA_MICROVM_IMAGE_NAME", "no image")
    return f"Hello from {image} on {socket.gethostname()}, process {os.getpid()}\n"


@app.get("/count")
def read():
    return jsonify(count=count)


@app.post("/count")
def increment():
    global count
    with lock:
        count += 1
        return jsonify(count=count)


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=8080)
