"""Only the page itself reaches the page: hosts, origins, routes and lengths, without a server."""

import asyncio
import random
from typing import Any

import pytest

from imggen.engine.explore.guard import MAX_BODY_BYTES, Guard

Headers = list[tuple[str, str]]
OWN: Headers = [("host", "127.0.0.1:7860")]


async def page(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the whole request and answers."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def answer(
    path: str = "/",
    headers: Headers = OWN,
    *,
    method: str = "GET",
    host: str = "127.0.0.1",
    body: list[bytes] | None = None,
    app: Any = page,
) -> tuple[int, dict[str, str]]:
    """The status and the headers with which a request is answered."""
    parts, sent = list(body or [b""]), list[Any]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    asyncio.run(Guard(app, host, 7860)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def test_the_page_itself_is_answered_and_told_to_fetch_nothing_elsewhere() -> None:
    for name in ("127.0.0.1", "localhost", "[::1]"):
        status, headers = answer(headers=[("host", f"{name}:7860"), ("origin", f"http://{name}:7860")])
        assert status == 200 and headers["content-security-policy"].startswith("default-src 'self'")
        assert "http" not in headers["content-security-policy"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("host", "evil.example:7860")],
        [("host", "127.0.0.1")],
        [("host", "127.0.0.1:7861")],
        [("host", "192.168.1.7:7860")],
        [("host", "127.0.0.1.evil.example:7860")],
        [*OWN, ("host", "evil.example:7860")],
        [*OWN, ("origin", "http://evil.example")],
        [*OWN, ("origin", "http://127.0.0.1:8000")],
        [*OWN, ("origin", "https://127.0.0.1:7860")],
        [*OWN, ("origin", "null")],
        [*OWN, ("sec-fetch-site", "cross-site")],
        [*OWN, ("sec-fetch-site", "same-site")],
    ],
)
def test_other_sites_are_refused(headers: Headers) -> None:
    assert answer(headers=headers)[0] == 403
    assert answer("/gradio_api/queue/join", headers, method="POST")[0] == 403


def test_an_open_address_answers_by_number_but_not_by_a_foreign_name() -> None:
    assert answer(headers=[("host", "192.168.1.7:7860")], host="0.0.0.0")[0] == 200
    assert answer(headers=[("host", "studio:7860")], host="studio")[0] == 200
    assert answer(headers=[("host", "evil.example:7860")], host="0.0.0.0")[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://example.com",
        "/gradio_api/upload",
        "/gradio_api/call/draw",
        "/gradio_api/component_server",
        "/assets/../../../etc/passwd",
        "/static/..",
        "//etc/passwd",
        "/login",
        "/docs",
        "/monitoring",
        "/config\n",
    ],
)
def test_there_is_no_route_to_files_or_to_other_hosts(path: str) -> None:
    for method in ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"):
        assert answer(path, method=method)[0] == 404


def test_what_is_too_long_is_refused_whether_it_says_so_or_not() -> None:
    join: dict[str, Any] = {"path": "/gradio_api/queue/join", "method": "POST"}
    assert answer(**join, headers=[*OWN, ("content-length", str(MAX_BODY_BYTES + 1))])[0] == 413
    assert answer(**join, headers=[*OWN, ("content-length", "many")])[0] == 413
    mebibytes = MAX_BODY_BYTES // (1 << 20)
    assert answer(**join, body=[bytes(1 << 20)] * mebibytes)[0] == 200
    assert answer(**join, body=[bytes(1 << 20)] * (mebibytes + 2))[0] == 413


def test_an_application_that_fails_answers_in_one_line() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("no")

    assert answer(app=broken)[0] == 400


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/", "headers": [(b"host", b"127.0.0.1:7860")]}
    asyncio.run(Guard(page, "127.0.0.1", 7860)(scope, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_random_requests_are_answered() -> None:
    """300 of them; `python -m tests.engine.explore.requests URL` sends thousands to a page."""
    chance = random.Random(0)
    letters = "/.%\\\0\n\xff:?#=&@[]{}abcfile~ "

    def text(length: int) -> str:
        return "".join(chance.choices(letters, k=chance.randrange(length)))

    for _ in range(300):
        headers = [(chance.choice(("host", "origin", "content-length", "x")), text(20)) for _ in range(3)]
        method = chance.choice(("GET", "POST", "HEAD", "BREW", ""))
        assert answer("/" + text(30), [*OWN, *headers], method=method)[0] in (200, 403, 404, 413)
