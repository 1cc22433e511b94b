"""Malformed and hostile requests to a page that runs: none may read a file or end the page.

python -m tests.engine.explore.requests http://127.0.0.1:7860 --count 1000
"""

from __future__ import annotations

import argparse
import json
import random
import socket
from pathlib import Path
from typing import Any

SECONDS = 10
TEMPLATES = (
    "/gradio_api/file={path}",
    "/gradio_api/file={up}{path}",
    "/file={path}",
    "/assets/{up}{path}",
    "/static/{up}{path}",
    "/svelte/{up}{path}",
    "/custom_component/x/client/component/{up}{path}",
    "/gradio_api/proxy=http://127.0.0.1:1{path}",
    "/gradio_api/stream/a/b/c/{up}{path}",
    "{path}",
    "/gradio_api/queue/data?session_hash={path}",
    "/config?{path}",
)
UPS = ("", "../" * 8, "..%2f" * 8, "%2e%2e/" * 8, "..\\" * 8, "....//" * 8, "%252e%252e%252f" * 8, "..%00/" * 3)


def value_of(chance: random.Random, depth: int = 0) -> Any:
    """Any JSON, with what a file of gradio looks like in it."""
    kinds = ("file", "url", "text", "number", "nothing", "list", "object", "state")
    kind = chance.choice(kinds[:5] if depth > 2 else kinds)
    if kind == "file":
        return {"path": "/etc/passwd", "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    if kind == "url":
        return {"path": "http://127.0.0.1:1/x.png", "url": "file:///etc/passwd", "meta": {"_type": "gradio.FileData"}}
    if kind == "list":
        return [value_of(chance, depth + 1) for _ in range(chance.randrange(6))]
    if kind == "object":
        return {chance.choice(("index", "name", "data", "path")): value_of(chance, depth + 1)}
    return {"text": "\0'\"<{{x}}${y}", "number": chance.choice((-1, 1e308, 2**80, 0.5)), "nothing": None}.get(kind, [])


def request_bytes(chance: random.Random, port: int, secret: Path) -> bytes:
    """One request: to a path that does not exist or should not, with a broken head, or with a body of anything."""
    kind = chance.choice(("path", "path", "body", "body", "head", "noise"))
    host = f"Host: 127.0.0.1:{port}\r\nConnection: close\r\n"
    if kind == "path":
        path = chance.choice(("/etc/passwd", str(secret), "C:/windows/win.ini"))
        target = chance.choice(TEMPLATES).format(path=path, up=chance.choice(UPS))
        return f"{chance.choice(('GET', 'HEAD', 'POST'))} {target} HTTP/1.1\r\n{host}\r\n".encode()
    if kind == "body":
        document = {
            "data": value_of(chance),
            "event_data": value_of(chance),
            "fn_index": chance.choice((*range(30), -1, 10**9, "x", None)),
            "trigger_id": chance.choice((*range(80), None)),
            "session_hash": chance.choice(("abc", "", None, "../../x")),
        }
        body = json.dumps(document).encode()
        body = body[: chance.choice((len(body), len(body), len(body) // 2))]
        target = chance.choice(("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel"))
        head = f"POST {target} HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body
    if kind == "head":
        line = chance.choice(
            ("Host: evil.example", "Origin: null", "Content-Length: -5", "Transfer-Encoding: x", ":", "\0")
        )
        return f"GET / HTTP/1.1\r\n{line}\r\n{host}\r\n".encode()
    return bytes(chance.randrange(256) for _ in range(chance.randrange(1, 200))) + b"\r\n\r\n"


def send_bad_requests(port: int, count: int, *, seed: int = 0, secret: Path) -> int:
    """Send requests; returns how many were answered or closed. Raises AssertionError if a file is read."""
    chance, done = random.Random(seed), 0
    contents = [
        Path("/etc/passwd").read_bytes()[:40] if Path("/etc/passwd").exists() else b"root:x:",
        secret.read_bytes(),
    ]
    for _ in range(count):
        request = request_bytes(chance, port, secret)
        answer = b""
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            try:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(1 << 16):
                    answer += part
            except (ConnectionError, TimeoutError):
                pass
        assert not any(content in answer for content in contents), request
        done += 1
    return done


def main() -> None:
    """Send requests to a page, and say how many."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    port = int(given.url.rstrip("/").rpartition(":")[2])
    done = send_bad_requests(port, given.count, seed=given.seed, secret=Path(__file__))
    print(f"{done} requests: no file was read")


if __name__ == "__main__":
    main()
