"""imggen as a process of its own: signals, pipes, terminals, imports, several processes at once."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from imggen.io.checkpoint import read_header, read_tensors
from tests.cli.forks import Fork, Start
from tests.helpers import run_cli

# A start of Python with imggen takes over a second.
pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.usefixtures("few_pairs")]
NO_GUARD = """
import sys
from pathlib import Path
from imggen.data import workers
from imggen.data.cache import decode_into_cache
from imggen.data.cache_entry import Form
from imggen.data.scan import open_source
from imggen.reporting import Silent
workers.MAX_IMAGES_FOR_THREADS = 1
workers.usable_cores = lambda: 2
cache = Path("own")
entry = decode_into_cache(open_source("imgs", cache_dir=cache), Form(16, 3, "center"), cache, False, Silent())
print(entry.index.count)
"""
HEAVY = ("torch", "torchvision", "numpy", "PIL", "safetensors", "pydantic", "sympy")


def train_words(data: Path, output: str, images: int) -> list[str]:
    model = ["--width", "8", "--max-width", "16", "--size", "16", "--batch", "16", "--seed", "3"]
    return ["train", "gan", "--data", str(data), "-o", output, *model, "--images", str(images)]


def wait_for(path: Path, process: Fork) -> None:
    """Until a file exists, and a moment more."""
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.err
        time.sleep(0.05)
    time.sleep(0.3)


def wait_for_images(path: Path, process: Fork) -> None:
    """Until a state was saved in the middle of the run."""
    deadline = time.monotonic() + 60
    while not path.exists() or not read_header(path).document["images"]:
        assert process.poll() is None and time.monotonic() < deadline, process.err
        time.sleep(0.01)


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


def test_a_signal_saves_the_run_and_resuming_it_equals_an_uninterrupted_run(
    image_folder: Path, fork: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    words = train_words(image_folder, "cut", 480)
    process = fork(*words, "--save-minutes", "0")  # saves after every step: the signal arrives early in the run
    wait_for_images(Path("cut/state.safetensors"), process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, process.err
    assert not process.out and "saved in cut" in process.err and "Traceback" not in process.err
    assert 0 < read_header(Path("cut/state.safetensors")).document["images"] < 480
    assert run_cli(capsys, *words, "--resume")[0] == 0
    assert read_header(Path("cut/weights.safetensors")).document["provenance"]["images"] == 480
    assert not list(Path("cut").glob(".*"))
    words[words.index("cut")] = "whole"
    assert run_cli(capsys, *words)[0] == 0
    cut, whole = read_state("cut"), read_state("whole")
    assert cut.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, cut[name]), name


def test_sigterm_saves_the_run_too(image_folder: Path, fork: Start, capsys: pytest.CaptureFixture[str]) -> None:
    process = fork(*train_words(image_folder, "cut", 10_000_000))
    wait_for(Path("cut/state.safetensors"), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143, process.err
    assert not process.out and "saved in cut" in process.err and "Traceback" not in process.err
    target = read_header(Path("cut/state.safetensors")).document["images"] + 32
    # The schedules depend on the budget, so the stopped run and its continuation need the same one.
    assert run_cli(capsys, *train_words(image_folder, "cut", target), "--resume")[0] == 0
    assert read_header(Path("cut/weights.safetensors")).document["provenance"]["images"] == target > 32
    assert not list(Path("cut").glob(".*"))


def test_a_second_ctrl_c_quits_at_once_and_a_kill_leaves_complete_files(
    image_folder: Path, fork: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    process = fork(*train_words(image_folder, "run", 10_000_000), "--save-minutes", "0")
    wait_for_images(Path("run/state.safetensors"), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert run_cli(capsys, *train_words(image_folder, "run", 10_000_000), "--resume", "--dry-run")[0] == 0
    assert run_cli(capsys, "sample", "run", "-n", 1, "-o", "x.png")[0] == 0
    process = fork(*train_words(image_folder, "two", 10_000_000))
    wait_for(Path("two/state.safetensors"), process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130 and "stopped" in process.err and "Traceback" not in process.err
    assert run_cli(capsys, "sample", "two", "-n", 1, "-o", "y.png")[0] == 0


def test_ctrl_c_while_sampling_leaves_no_partial_file(fork: Start) -> None:
    process = fork("sample", "gan", "-n", "1000000", "-o", "out")
    wait_for(Path("out/"), process)
    deadline = time.monotonic() + 60
    while len(list(Path("out").iterdir())) < 100:
        assert process.poll() is None and time.monotonic() < deadline, process.err
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130 and "Traceback" not in process.err
    files = list(Path("out").iterdir())
    assert files and all(path.suffix == ".png" for path in files)
    for path in sorted(files)[-3:]:
        with Image.open(path) as image:
            image.load()


def test_png_on_stdout_and_json_in_a_pipe(fork: Start) -> None:
    process = fork("sample", "gan", "-n", "4", "-o", "-")
    assert process.wait() == 0 and "model" in process.err
    Path("x.png").write_bytes(process.files[0].read_bytes())
    with Image.open("x.png") as image:
        assert image.size == (2 * 66 + 2, 2 * 66 + 2)
    process = fork("info", "x.png", "--json")
    assert process.wait() == 0 and json.loads(process.out)["kind"] == "image"


def test_a_closed_stdout_exits_with_141() -> None:
    words = [sys.executable, "-m", "imggen", "models"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141 and "Traceback" not in err and "Exception" not in err


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start_end_no_command(closed: str) -> None:
    for words, code in ((("models",), 0), (("info", "nothing.png"), 3)):
        command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "imggen", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code and "internal" not in done.stderr and "Traceback" not in done.stderr


def test_training_goes_on_when_stderr_is_closed(image_folder: Path, fork: Start) -> None:
    """An error keeps its exit code, too."""
    for words, code in ((train_words(image_folder, "run", 64), 0), (("sample", "gan", "--seeds", "5-2"), 2)):
        process = fork(*words, closed_stderr=True)
        assert process.wait() == code
        assert ("weights" in process.out) == (code == 0)
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


def test_a_bar_on_a_terminal_and_plain_lines_elsewhere(image_folder: Path, fork: Start) -> None:
    process = fork(*train_words(image_folder, "lines", 64), TERM="xterm")
    assert process.wait() == 0 and "\x1b" not in process.err and "\r" not in process.err
    leader, follower = pty.openpty()
    process = fork(*train_words(image_folder, "bar", 64), terminal=os.ttyname(follower), TERM="xterm")
    output = b""
    while process.poll() is None:
        while select.select([leader], [], [], 0.05)[0]:
            output += os.read(leader, 65536)
    os.close(follower)
    os.close(leader)
    assert process.wait() == 0
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


def test_torchrun_divides_the_sampling(fork: Start) -> None:
    process = fork("torchrun", 2, "sample", "gan", "-n", "9", "--seed", "1", "-o", "out", "--device", "cpu")
    assert process.wait() == 0, process.err
    assert len(list(Path("out").iterdir())) == 9 and process.out == "out\n"
