"""imggen as a process of its own: signals, pipes, terminals, imports, several processes at once."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from imggen.io.checkpoint import read_header, read_tensors

pytestmark = pytest.mark.process
Run = Callable[..., subprocess.CompletedProcess[str]]
NO_GUARD = """
import sys
from pathlib import Path
from imggen.data import workers
from imggen.data.dataset import DataOptions, load_dataset
from imggen.reporting import Silent
workers.MAX_IMAGES_FOR_THREADS = 1
workers.usable_cores = lambda: 2
print(len(load_dataset("imgs", DataOptions(cache_dir=Path("own")), max_size=64, reporter=Silent())))
"""
WITH_CTRL_C = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("imggen", run_name="__main__", alter_sys=True)
"""
HEAVY = ("torch", "torchvision", "numpy", "PIL", "safetensors", "pydantic", "sympy")


def train_words(data: Path, output: str, images: int) -> list[str]:
    model = ["--width", "8", "--max-width", "16", "--size", "16", "--batch", "16", "--seed", "3"]
    return ["train", "gan", "--data", str(data), "-o", output, *model, "--images", str(images)]


STARTED: list[subprocess.Popen[str]] = []


def start(*words: str) -> subprocess.Popen[str]:
    """Start a process that handles SIGINT, which a shell sets to be ignored for tests in its background."""
    command = [sys.executable, "-c", WITH_CTRL_C, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def kill_started() -> Iterator[None]:
    """Kill the processes that a failed test leaves running."""
    yield
    while STARTED:
        STARTED.pop().kill()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    time.sleep(0.5)


def read_state(run: str) -> dict[str, Tensor]:
    path = Path(run) / "state.safetensors"
    return read_tensors(path, read_header(path, kind="state"), None)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "gan", "--help"],
        ["sample", "--help"],
        ["interpolate", "-h"],
        ["inpaint", "-h"],
        ["models"],
        ["--version"],
    ],
)
def test_help_and_lists_import_nothing_heavy(words: list[str]) -> None:
    check = (
        "import sys\nfrom imggen.cli.app import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    sys.stderr.write(' '.join(m for m in sys.modules if '.' not in m))"
    )
    done = subprocess.run([sys.executable, "-c", check, *words], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    heavy = set(HEAVY) - ({"numpy", "PIL", "pydantic"} if words == ["models"] else set())
    assert done.stdout and not loaded & heavy


def test_refusals_come_before_torch(tmp_path: Path) -> None:
    (tmp_path / "grid.png").write_bytes(b"x")
    check = (
        "import sys\nfrom imggen.cli.app import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    sys.exit(end.code + 100 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", check, "sample", "gan", "-o", "grid.png"], check=False)
    assert done.returncode == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_run_and_resume_completes_it(
    image_folder: Path, imggen: Run, number: signal.Signals, code: int
) -> None:
    process = start(*train_words(image_folder, "cut", 10_000_000))
    wait_for(Path("cut/state.safetensors"), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert not out and "saved in cut" in err and "Traceback" not in err
    images = read_header(Path("cut/state.safetensors")).document["images"]
    assert images > 0
    target = images + 160
    # The schedules depend on the budget, so the stopped run and its continuation need the same one.
    assert imggen(*train_words(image_folder, "cut", target), "--resume").returncode == 0
    assert read_header(Path("cut/weights.safetensors")).document["provenance"]["images"] == target
    assert not list(Path("cut").glob(".*"))


def wait_for_images(path: Path, process: subprocess.Popen[str]) -> None:
    """Until a state was saved in the middle of the run."""
    deadline = time.monotonic() + 60
    while not path.exists() or not read_header(path).document["images"]:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(image_folder: Path, imggen: Run) -> None:
    words = train_words(image_folder, "cut", 1_600)
    process = start(*words, "--save-minutes", "0")  # saves after every step: the signal arrives early in the run
    wait_for_images(Path("cut/state.safetensors"), process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert 0 < read_header(Path("cut/state.safetensors")).document["images"] < 1_600
    assert imggen(*words, "--resume").returncode == 0
    words[words.index("cut")] = "whole"
    assert imggen(*words).returncode == 0
    cut, whole = read_state("cut"), read_state("whole")
    assert cut.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name


def test_a_second_ctrl_c_quits_at_once_and_a_kill_leaves_complete_files(image_folder: Path, imggen: Run) -> None:
    process = start(*train_words(image_folder, "run", 10_000_000), "--save-minutes", "0")
    wait_for(Path("run/state.safetensors"), process)
    process.kill()
    process.communicate(timeout=60)
    assert imggen(*train_words(image_folder, "run", 10_000_000), "--resume", "--dry-run").returncode == 0
    assert imggen("sample", "run", "-n", 1, "-o", "x.png").returncode == 0
    process = start(*train_words(image_folder, "two", 10_000_000))
    wait_for(Path("two/state.safetensors"), process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped" in err and "Traceback" not in err
    assert imggen("sample", "two", "-n", 1, "-o", "y.png").returncode == 0


def test_ctrl_c_while_sampling_leaves_no_partial_file(imggen: Run) -> None:
    process = start("sample", "gan", "-n", "1000000", "-o", "out")
    wait_for(Path("out/"), process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    files = list(Path("out").iterdir())
    assert files and all(path.suffix == ".png" for path in files)
    for path in sorted(files)[-3:]:
        with Image.open(path) as image:
            image.load()


def test_a_full_disk_exits_with_3_and_keeps_the_existing_files(image_folder: Path, imggen: Run) -> None:
    """A limit on the size of files stands for a full disk: writing a file fails half-way."""
    assert imggen(*train_words(image_folder, "run", 32)).returncode == 0
    before = {path: path.read_bytes() for path in Path("run").glob("*.safetensors")}
    limited = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from imggen.cli.app import main\nmain(sys.argv[1:])"
    )
    words = [sys.executable, "-c", limited, *train_words(image_folder, "run", 64), "--resume"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in Path("run").glob("*.safetensors")} == before
    assert not list(Path("run").rglob(".*"))


def test_png_on_stdout_and_json_in_a_pipe(imggen: Run) -> None:
    words = [sys.executable, "-m", "imggen", "sample", "gan", "-n", "4", "-o", "-"]
    done = subprocess.run(words, capture_output=True, check=True)
    Path("x.png").write_bytes(done.stdout)
    with Image.open("x.png") as image:
        assert image.size == (2 * 34 + 2, 2 * 34 + 2)
    assert b"model" in done.stderr
    assert json.loads(imggen("info", "x.png", "--json").stdout)["kind"] == "image"


def test_a_closed_stdout_exits_with_141() -> None:
    process = start("models")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141 and "Traceback" not in err and "Exception" not in err


def test_training_goes_on_when_stderr_is_closed(image_folder: Path) -> None:
    """An error keeps its exit code, too."""
    for words, code in ((train_words(image_folder, "run", 400), 0), (("sample", "gan", "--seeds", "5-2"), 2)):
        process = start(*words)
        assert process.stderr is not None and process.stdout is not None
        process.stderr.close()
        assert ("weights" in process.stdout.read()) == (code == 0)
        process.stdout.close()
        assert process.wait(timeout=60) == code
    assert Path("run/weights.safetensors").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_disk_behind_stdout_exits_with_3() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "imggen", "models"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 3 and "No space" in done.stderr and "Exception" not in done.stderr


def test_image_bytes_are_not_written_to_a_terminal() -> None:
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "imggen", "sample", "gan", "-o", "-"]
    done = subprocess.run(words, stdout=follower, stderr=subprocess.PIPE, text=True, check=False)
    os.close(follower)
    os.close(leader)
    assert done.returncode == 2 and "terminal" in done.stderr


def test_a_bar_on_a_terminal_and_plain_lines_elsewhere(image_folder: Path, imggen: Run) -> None:
    done = imggen(*train_words(image_folder, "lines", 64), TERM="xterm")
    assert done.returncode == 0 and "\x1b" not in done.stderr and "\r" not in done.stderr
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "imggen", *train_words(image_folder, "bar", 64)]
    process = subprocess.Popen(words, stderr=follower, stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"})
    os.close(follower)
    output = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        output += part
    os.close(leader)
    assert process.wait(timeout=60) == 0
    assert b"training" in output and b"100%" in output and b"\x1b[" in output


def test_a_script_without_a_main_guard_ends(image_folder: Path) -> None:
    """Worker processes import the script that started them, and fail at once without a guard; threads take over.

    The file names together exceed the buffer of a pipe, so that a write to a dead worker would block.
    """
    one = (image_folder / "disc" / "000.png").read_bytes()
    for index in range(500):
        (image_folder / "disc" / f"{index:03d}{'long' * 50}.png").write_bytes(one)
    Path("script.py").write_text(NO_GUARD, encoding="utf-8")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "620\n"
    assert not list(Path("own").rglob("job.*"))


def test_two_processes_train_one_model_and_split_the_sampling(image_folder: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "imggen"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *train_words(image_folder, "run", 128), "--device", "cpu"],
        capture_output=True, text=True, check=False, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run/weights.safetensors\n"
    assert done.stderr.count("2 processes") == 1
    done = subprocess.run(
        [*torchrun, "sample", "run", "-n", "9", "--seed", "1", "-o", "out", "--device", "cpu"],
        capture_output=True, text=True, check=False, env=environment, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(Path("out").iterdir())) == 9 and done.stdout == "out\n"
