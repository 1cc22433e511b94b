"""One of two processes is killed: the other says so, and a restart by torchrun continues from the last checkpoint."""

import signal
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
def store() -> TCPStore:
    """In which the processes find each other; torchrun keeps it for all its restarts."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def group(fork: Start, store: TCPStore) -> Group:
    """Start a command line as two processes, as torchrun does; the first of them some seconds after the second.

    The second is as on a machine that began anew: it knows nothing of the run, and does as the main process.
    """
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}

    def start(*words: object, seconds_between: float = 0.0) -> list[Fork]:
        second = fork(*words, RANK="1", LOCAL_RANK="1", TORCHELASTIC_RUN_ID="new", **shared)
        time.sleep(seconds_between)
        return [fork(*words, RANK="0", LOCAL_RANK="0", TORCHELASTIC_RUN_ID="one", **shared), second]

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
        assert run_cli(capsys, *words)[0] == 2 and trained_images() == saved
    # The second process finds no new address of the first: it must not wait for that of the one that has ended.
    restarted = group(*words, seconds_between=2.0)
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
