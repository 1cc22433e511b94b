"""A disk that is full half-way through a file: exit code 3, earlier files as they were, and nothing left over.

A limit on the size of files stands for the full disk; `disk.py` fills real ones.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.runs import BATCH, make_images, train_words
from tests.helpers import run_cli

pytestmark = pytest.mark.usefixtures("few_pairs")
SAMPLE = ["sample", "gan", "--seed", "1", "-n", "4"]
ANIMATE = ["interpolate", "gan", "--seeds", "1,2", "--frames", "4"]
FILL = ["inpaint", "--method", "classical", "--image", "noise.png", "--box", "4,4,8,8"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """In this block no file can have more bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path = Path("out")) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], size: int, *words: str) -> str:
    """Run a command that cannot write files of more than `size` bytes; returns its error message."""
    with largest_file(size):
        code, out, err = run_cli(capsys, *words)
    assert code == 3 and not out and "error: " in err, err
    return err


@pytest.mark.parametrize(
    ("words", "output"),
    [
        pytest.param(SAMPLE, "grid.png", id="grid"),
        pytest.param(SAMPLE, "folder/", id="folder"),
        pytest.param(SAMPLE, "%02d.webp", id="pattern"),
        pytest.param(ANIMATE, "a.gif", id="gif"),
        pytest.param(ANIMATE, "a.png", id="png"),
        pytest.param(ANIMATE, "a.webp", id="webp"),
        pytest.param(ANIMATE, "a.mp4", id="mp4"),
        pytest.param(ANIMATE, "frames/", id="frames"),
        pytest.param(FILL, "fill.png", id="inpaint"),
    ],
)
def test_images_and_animations(capsys: pytest.CaptureFixture[str], words: list[str], output: str) -> None:
    make_images(Path("imgs"), 1, 64)
    Path("imgs/0000.png").rename("noise.png")
    Path("out").mkdir()
    Path("out/earlier.png").write_bytes(b"of the user")
    if words is SAMPLE:  # an earlier file of the same name
        assert run_cli(capsys, *words, "-o", f"out/{output}")[0] == 0
    before = contents()
    err = refused(capsys, 300, *words, "-o", f"out/{output}", "--force")
    assert [line.split(":")[0] for line in err.splitlines() if ":" in line] == ["error", "hint"]
    assert "out/" in err and ("%" in output or output.strip("/") in err)
    assert contents() == before


def test_the_weights_of_a_new_run(capsys: pytest.CaptureFixture[str]) -> None:
    make_images(Path("imgs"))
    err = refused(capsys, 60_000, *train_words("gan", "out", BATCH))
    assert "cannot be written" in err and "out/" in err and "Traceback" not in err
    assert not list(Path("out").rglob("*.safetensors")) and not list(Path("out").rglob(".*.part"))


def test_the_checkpoints_of_a_resumed_run(capsys: pytest.CaptureFixture[str]) -> None:
    make_images(Path("imgs"))
    assert run_cli(capsys, *train_words("gan", "out", BATCH))[0] == 0
    before = {path: data for path, data in contents().items() if path.suffix == ".safetensors"}
    assert len(before) == 2
    err = refused(capsys, 20_000, *train_words("gan", "out", 2 * BATCH), "--resume")
    assert "cannot be written" in err
    after = contents()
    assert {path: after[path] for path in before} == before and not list(Path("out").rglob(".*.part"))


def test_decoded_images(capsys: pytest.CaptureFixture[str]) -> None:
    make_images(Path("imgs"))
    err = refused(capsys, 20_000, *train_words("gan", "out", BATCH))
    assert "cache" in err and not list(Path("cache").rglob("*.npy"))


@pytest.mark.slow
def test_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    make_images(Path("imgs"), 60, 32)
    words = ["evaluate", "imgs", "--data", "imgs", "-n", "40", "-o", "out/report.html", "--force"]
    Path("out").mkdir()
    assert run_cli(capsys, *words)[0] == 0
    before = contents()
    assert "report.html" in refused(capsys, 20_000, *words) and contents() == before
