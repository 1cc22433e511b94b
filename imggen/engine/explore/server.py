"""The server of the page: an address, a folder for the time of the process, and a clean end."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from imggen.engine.explore.guard import Guard
from imggen.engine.explore.progress import find_run
from imggen.engine.options import ExploreOptions
from imggen.errors import UsageError
from imggen.io.locks import make_locked_folder, seize
from imggen.reporting import Reporter

if TYPE_CHECKING:
    from imggen.engine.explore.actions import Actions

FIRST_PORT, PORTS_TRIED = 7860, 100
FOLDER_PREFIX = "imggen-explore-"
SECONDS_TO_END = 3.0
POLL_SECONDS = 0.2
SECONDS_UNTIL_LEFT = 60  # a younger folder without a lock may be one that is just being made


def serve(options: ExploreOptions, reporter: Reporter, ready: Callable[[str], None]) -> None:
    """Serve the page until an exception such as KeyboardInterrupt; see `imggen.engine.explore.run`."""
    with listening_socket(options.host, options.port) as listener, own_folder() as folder:
        _silence_gradio(folder)
        # Only now: gradio reads these settings while it is imported, and a port that is taken is refused before torch.
        from imggen.engine.checkpoints import keeping_models
        from imggen.engine.explore.page import build_app

        with keeping_models():
            actions = _open_model(options, folder, reporter)
            port = listener.getsockname()[1]
            app = Guard(build_app(options, actions), options.host, port)
            try:
                with _serving(app, listener) as thread:
                    url = f"http://{_shown_host(options.host)}:{port}"
                    ready(url)
                    if options.opens_browser:
                        webbrowser.open(url)
                    reporter.info("Ctrl-C ends it")
                    while thread.is_alive():
                        thread.join(POLL_SECONDS)
            finally:
                if actions is not None:
                    actions.end(SECONDS_TO_END)


@contextmanager
def _serving(app: Guard, listener: socket.socket) -> Iterator[threading.Thread]:
    """Serve an application in a thread, which has started when the block begins and ends with it."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        ws="none",
    )
    server = uvicorn.Server(config)
    # A daemon, as are the threads that it starts: no request that still runs can keep the process from ending.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(POLL_SECONDS / 10)
        yield thread
    finally:
        server.should_exit = True
        thread.join(SECONDS_TO_END)


def _open_model(options: ExploreOptions, folder: Path, reporter: Reporter) -> Actions | None:
    """The model in memory; None for a run that has saved none yet. Raises CheckpointError and DeviceError."""
    from imggen.engine.checkpoints import prepare
    from imggen.engine.explore.actions import Actions

    run = find_run(options)
    if run is not None and not run.weights.is_file():
        reporter.info(f"the run in {run.path} has not saved a model yet: the page shows its training")
        return None
    actions = Actions(options, folder)
    prepare(actions.loaded, reporter, full_precision=True)
    return actions


def _shown_host(host: str) -> str:
    """The host of the URL that is shown."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@contextmanager
def listening_socket(host: str, port: int | None) -> Iterator[socket.socket]:
    """A socket that listens at `port`; by default at the first free one from FIRST_PORT on. Raises UsageError."""
    ports = range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]
    reason = "no port is free"
    for number in ports:
        try:
            listener = socket.create_server((host, number), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except (OSError, UnicodeError) as error:
            reason = str(getattr(error, "strerror", None) or error)
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                continue
            break
        with listener:
            yield listener
        return
    shown = f"{host}:{ports[0]}" if len(ports) == 1 else host
    raise UsageError(f"the page cannot be served at {shown}: {reason}", "another --port, or no --host")


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for temporary files, removed at the end; what killed processes left behind is removed too."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{FOLDER_PREFIX}*"):
        lock = seize(left) if _age(left) > SECONDS_UNTIL_LEFT else None
        if lock is not None and lock.supported:
            shutil.rmtree(left, ignore_errors=True)
            lock.release()
    folder, lock = make_locked_folder(parent, FOLDER_PREFIX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.release()


def _age(path: Path) -> float:
    """Seconds since a folder was changed; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _silence_gradio(folder: Path) -> None:
    """Let gradio send nothing anywhere, and write into `folder` alone."""
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_EXAMPLES_CACHE": str(folder),
        "GRADIO_RUN_HISTORY": "False",
        "GRADIO_MCP_SERVER": "False",
        "GRADIO_SSR_MODE": "False",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_ROOT_PATH", "GRADIO_SHARE"):
        with suppress(KeyError):
            del os.environ[name]
