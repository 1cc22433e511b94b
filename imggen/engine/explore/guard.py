"""What reaches the page: only requests from the page itself, to the few routes that it needs.

A page of another site may send requests to 127.0.0.1 from the user's browser, and may give its own name that address
(DNS rebinding). So the Host of a request must be the page's own, and its Origin, if it has one, too.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from imggen.engine.explore import is_local

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

# No route of gradio that reads, takes or fetches files is among them: images travel inside of events.
ROUTES = {
    "GET": re.compile(
        r"/|/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static|svelte)/[\w./-]+"
        r"|/gradio_api/(info|app_id|startup-events|queue/data|heartbeat/\w+)/?"
    ),
    "POST": re.compile(r"/gradio_api/(queue/join|run/predict|reset|cancel)/?"),
}
MAX_IMAGE_BYTES = 32_000_000  # of a file that is dropped on the page
MAX_BODY_BYTES = 4 * MAX_IMAGE_BYTES // 3 + (4 << 20)  # two images in base64, one of them a mask
HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; object-src 'none'; frame-ancestors 'none'; form-action 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

KEPT = {"cache-control": "max-age=86400, immutable"}  # scripts whose names change with their contents


class TooLongError(Exception):
    """The body of a request is longer than MAX_BODY_BYTES."""


class Guard:
    """An ASGI application around another one, for a page at `host` and `port`."""

    def __init__(self, app: App, host: str, port: int) -> None:
        self.app, self.host, self.port = app, host, port

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it in one line of text."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal := self.refusal(scope):
            await _refuse(send, *refusal)
        else:
            # Between programs of one machine, compressing takes longer than sending.
            headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
            await self._pass_on({**scope, "headers": headers}, receive, send)

    def refusal(self, scope: Message) -> tuple[int, str] | None:
        """The status and the text with which a request is refused, None if it is not."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts, origins = headers.get(b"host", []), headers.get(b"origin", [])
        if len(hosts) != 1 or not self._is_own(hosts[0].decode("latin-1")):
            return 403, "this page answers under its own address only"
        if origins not in ([], [b"http://" + hosts[0]]):
            return 403, "another site may not use this page"
        if not set(headers.get(b"sec-fetch-site", [])) <= {b"same-origin", b"none"}:
            return 403, "another site may not use this page"
        routes = ROUTES.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if routes is None or not routes.fullmatch(scope["path"]) or ".." in scope["path"]:
            return 404, "there is nothing here"
        lengths = headers.get(b"content-length", [])
        if any(not length.isdigit() or len(length) > 12 or int(length) > MAX_BODY_BYTES for length in lengths):
            return 413, "the request is too long"
        return None

    def _is_own(self, host: str) -> bool:
        """Whether the Host of a request is an address of this page."""
        name, colon, port = host.rpartition(":")
        if not colon or port != str(self.port):
            return False
        name = name.strip("[]").lower()
        if name == self.host.lower() or is_local(name):
            return True
        try:
            ipaddress.ip_address(name)  # no name of another site leads to the page by its number
        except ValueError:
            return False
        return not is_local(self.host)

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        received, has_begun = 0, False

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise TooLongError
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                own = {**HEADERS, **(KEPT if scope["path"].startswith("/assets/") else {})}
                others = [pair for pair in message.get("headers", []) if pair[0].decode("latin-1").lower() not in own]
                message["headers"] = others + [(name.encode(), value.encode()) for name, value in own.items()]
            await send(message)

        try:
            await self.app(scope, receive_some, send_with_headers)
        except Exception as error:
            if has_begun:
                raise
            status = (413, "the request is too long") if isinstance(error, TooLongError) else (400, "a bad request")
            await _refuse(send, *status)


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode() + b"\n"})
