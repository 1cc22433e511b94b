"""One of two processes is killed: the other says so, and a restart by torchrun continues from the last checkpoint."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from imggen.io.checkpoint import read_header
from tests.cli.forks import Fork, Start
from tests.helpers import run_cli

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.usefixtures("few_pairs")]
Group = Callable[..., list[Fork]]


@pytest.fixture
def group(fork: Start) -> Group:
    """Start a command line as two processes, as torchrun does."""

    def start(*words: object, restarts: int = 0, run: str = "one") -> list[Fork]:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment |= {"TORCHELASTIC_RUN_ID": run, "TORCHELASTIC_RESTART_COUNT": str(restarts)}
        return [fork(*words, RANK=rank, LOCAL_RANK=rank, **environment) for rank in ("0", "1")]

    return start


def train_words(data: Path, images: int) -> list[str]:
    model = ["--width", "8", "--max-width", "16", "--size", "16", "--batch", "16", "--seed", "3"]
    return ["train", "gan", "--data", str(data), "-o", "run", "--device", "cpu", *model, "--images", str(images)]


def trained_images() -> int:
    """Of the last checkpoint."""
    return int(read_header(Path("run/state.safetensors")).document["images"])


def wait_until(condition: Callable[[], Any], process: Fork) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, process.err
        time.sleep(0.01)


def test_a_killed_worker_and_its_restart(
    image_folder: Path, group: Group, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*train_words(image_folder, 160), "--save-minutes", "0"]
    main, other = group(*words)
    wait_until(lambda: Path("run/state.safetensors").exists() and trained_images() > 0, main)
    other.send_signal(signal.SIGKILL)
    assert main.wait() == 4 and other.wait() == -signal.SIGKILL
    assert "another process ended" in main.err and "--resume continues" in main.err
    assert not any(word in main.err for word in ("gloo", "Traceback", "internal"))
    saved = trained_images()
    assert 0 < saved < 160

    # A restart by another torchrun does not touch the run; one by the same torchrun continues it.
    with monkeypatch.context() as patch:
        patch.setenv("TORCHELASTIC_RUN_ID", "another")
        patch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        assert run_cli(capsys, *words)[0] == 2 and trained_images() == saved
    restarted = group(*words, restarts=1)
    assert [process.wait() for process in restarted] == [0, 0], restarted[0].err + restarted[1].err
    assert f"resuming run at {saved:,} images" in restarted[0].err and trained_images() == 160
    assert [process.out for process in restarted] == ["run/weights.safetensors\n", ""]
    assert [process.err.count("2 processes") for process in restarted] == [1, 0]

    # The run goes on with one process.
    assert run_cli(capsys, *train_words(image_folder, 176), "--resume")[0] == 0 and trained_images() == 176


def test_a_killed_worker_of_sampling_and_the_same_images_from_one_process(
    group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "gan", "--seed", "5", "-n", "400", "-o", "out/"]
    main, other = group(*words)
    wait_until(lambda: Path("out").is_dir() and len(list(Path("out").glob("*.png"))) > 20, main)
    other.send_signal(signal.SIGKILL)
    main.send_signal(signal.SIGKILL)
    assert [process.wait() for process in (main, other)] == [-signal.SIGKILL] * 2
    assert len(list(Path("out").glob("*.png"))) < 400
    assert run_cli(capsys, *words, "--resume")[0] == 0
    assert run_cli(capsys, *words[:-1], "whole/")[0] == 0
    files = {path.name: path.read_bytes() for path in Path("whole").iterdir()}
    assert len(files) == 400 and files == {path.name: path.read_bytes() for path in Path("out").glob("*.png")}


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "gan", "--seed", "1", "-o", "grid.png"],
        ["sample", "gan", "--near", "x.png", "-o", "near.png"],
        ["interpolate", "gan", "--seeds", "1,2", "-o", "walk.gif"],
        ["inpaint", "gan", "--image", "x.png", "--box", "1,1,2,2", "-o", "y.png"],
        ["evaluate", "gan", "--data", "imgs", "-o", "report.html"],
    ],
)
def test_what_one_process_must_do_is_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("os._exit", lambda code: exit(code))
    code, _, err = run_cli(capsys, *words)
    assert code == 2 and "process" in err and not list(Path.cwd().iterdir())


JOIN = """
import sys, torch
from imggen.engine.distributed import ProcessGroup
group = ProcessGroup.from_environment()
group.start(torch.device("cpu"))
assert group.sums([1.0], torch.device("cpu")) == [2.0]
print("joined", flush=True)
sys.stdin.read()
"""


def test_a_restart_does_not_wait_for_processes_that_have_ended() -> None:
    """torchrun keeps the store, in which processes find each other, for all its restarts."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "GROUP_WORLD_SIZE": "1"}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"

    def start(rank: str, restarts: int) -> subprocess.Popen[str]:
        more = {**shared, "RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_RESTART_COUNT": str(restarts)}
        command = [sys.executable, "-c", JOIN]
        return subprocess.Popen(command, env={**os.environ, **more}, stdin=-1, stdout=-1, stderr=-1, text=True)

    for restarts in range(2):
        second = start("1", restarts)
        time.sleep(3 * restarts)  # so that it finds no new address of the first
        both = [start("0", restarts), second]
        try:
            for process in both:
                assert process.stdout is not None and process.stderr is not None
                assert process.stdout.readline() == "joined\n", process.stderr.read()
        finally:
            for process in both:
                process.kill()
                process.communicate()
