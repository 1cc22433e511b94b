"""imggen in processes that are forked from one that has loaded torch: each starts at once, not after seconds.

Run as a program, this file is that process. It reads requests from stdin, one JSON value per line, and answers each:
a dictionary starts a command line (the answer is its process id), a process id asks for the exit code (or null).
A command line `torchrun N …` runs in N processes.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = (
    "typer", "torch._dynamo", "imggen.engine.training.loop", "imggen.engine.sampling.sample",
    "imggen.models.gan.learner", "imggen.metrics.features",
)  # fmt: skip


class Server:
    """The process that the others are forked from, started when it is first needed; it imports `modules` first."""

    def __init__(self, *modules: str) -> None:
        self.modules = modules or PRELOADED
        self.process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any] | int) -> int | None:
        """The answer to a request."""
        if self.process is None:
            words = [sys.executable, __file__, *self.modules]
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.communicate()


class Fork:
    """A command line in a process of its own, in the current folder; `out` and `err` are what it printed.

    `terminal` is one that stderr goes to, `closed_stderr` a pipe that nobody reads, and a file may have at most
    `max_file_size` bytes. The process kills itself before it replaces the file called `kill_before` for the
    `kill_count`-th time.
    """

    count = 0

    def __init__(
        self,
        server: Server,
        *words: object,
        terminal: str = "",
        closed_stderr: bool = False,
        max_file_size: int = -1,
        kill_before: str = "",
        kill_count: int = 1,
        **environment: str,
    ) -> None:
        Fork.count += 1
        self.server = server
        self.files = [Path.cwd() / f".{name}{Fork.count}" for name in ("out", "err")]
        err = None if closed_stderr else terminal or str(self.files[1])
        request = {"words": [str(word) for word in words], "folder": str(Path.cwd()), "environment": environment}
        request |= {"max_file_size": max_file_size, "kill_before": kill_before, "kill_count": kill_count}
        pid = server.ask({**request, "out": str(self.files[0]), "err": err})
        assert pid is not None
        self.pid, self.code = pid, None

    def poll(self) -> int | None:
        """The exit code, None while the process runs."""
        self.code = self.server.ask(self.pid) if self.code is None else self.code
        return self.code

    def wait(self, seconds: float = 120) -> int:
        """The exit code, once the process has ended."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, self.err
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def out(self) -> str:
        """What was printed to stdout."""
        return self.files[0].read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What was printed to stderr."""
        return self.files[1].read_text(encoding="utf-8")


Start = Callable[..., Fork]


def become(request: dict[str, Any]) -> None:
    """Turn a forked process into the one that was asked for."""
    os.chdir(request["folder"])
    os.environ.update({"IMGGEN_CACHE": str(Path("cache").absolute()), **request["environment"]})
    if request["err"] is None:
        reader, err = os.pipe()
        os.close(reader)
    else:
        err = os.open(request["err"], os.O_WRONLY | os.O_CREAT | os.O_NOCTTY)
    for number, descriptor in enumerate(
        (os.open(os.devnull, os.O_RDONLY), os.open(request["out"], os.O_WRONLY | os.O_CREAT), err)
    ):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # Those of the process that this one was forked from remember whether its files could seek.
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    if request["max_file_size"] >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["max_file_size"],) * 2)
    if request["kill_before"]:
        kill_before_replacing(request["kill_before"], request["kill_count"])
    # A shell sets SIGINT to be ignored for tests in its background.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def kill_before_replacing(name: str, count: int) -> None:
    """Kill this process when a file of this name is about to be replaced for the `count`-th time."""
    replace, left = os.replace, count

    def replace_or_die(source: Any, target: Any) -> None:
        nonlocal left
        left -= Path(target).name == name
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die


def serve() -> list[str]:
    """Answer requests until stdin ends; returns the words of a command line in each forked process."""
    codes: dict[int, int] = {}
    while line := sys.stdin.readline():
        request = json.loads(line)
        if isinstance(request, dict):
            answer: int | None = os.fork()
            if answer == 0:
                become(request)
                return request["words"]
        else:
            ended, status = os.waitpid(request, os.WNOHANG) if request not in codes else (0, 0)
            if ended:
                codes[request] = os.waitstatus_to_exitcode(status)
            answer = codes.get(request)
        print(json.dumps(answer), flush=True)
    os._exit(0)


def run(words: list[str]) -> None:
    """Run a command line as one of several processes: it must return, for its torchrun to know that it has ended."""
    from imggen.cli.app import main

    leave, os._exit = os._exit, sys.exit  # type: ignore[assignment]
    try:
        main(words)
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        os._exit = leave


def torchrun(count: int, words: list[str]) -> None:
    """Run a command line in `count` processes, as torchrun does, but in forks of this process."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(1, 1, count, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", start_method="fork")
    elastic_launch(config, run)(words)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # Most of the time of a short training is spent on measuring the diversity of samples.
    importlib.import_module("imggen.engine.training.mode_collapse").NUM_PAIRS = 4
    command = serve()
    if command[0] == "torchrun":
        torchrun(int(command[1]), command[2:])
    else:
        from imggen.cli.app import main

        main(command)
