"""What else happens to a command: data that vanishes, folders that cannot be written to, a folder in use."""

import os
from pathlib import Path

import pytest

from imggen.data.dataset import DataOptions, scan_dataset
from imggen.errors import DataError
from imggen.io.locks import lock_directory
from imggen.reporting import Silent
from tests.faults.runs import BATCH, make_images, train_words
from tests.helpers import RecordingReporter, run_cli


def test_images_that_vanish_or_change_while_they_are_read_are_skipped_and_named() -> None:
    make_images(Path("imgs"))
    source = scan_dataset("imgs", DataOptions(), max_size=16, reporter=Silent())
    Path("imgs/0003.png").unlink()
    Path("imgs/0005.png").write_bytes(Path("imgs/0005.png").read_bytes()[:60])
    reporter = RecordingReporter()
    assert len(source.load(reporter)) == 62
    (warning,) = reporter.warnings
    assert "0003.png" in warning and "0005.png" in warning


def test_a_folder_that_vanishes_is_bad_data_and_leaves_nothing_in_the_cache() -> None:
    make_images(Path("imgs"))
    source = scan_dataset("imgs", DataOptions(), max_size=16, reporter=Silent())
    Path("imgs").rename("elsewhere")
    with pytest.raises(DataError):
        source.load(Silent())
    assert not list(Path("cache").rglob("images.npy")) and not list(Path("cache").rglob("*.part"))


@pytest.mark.parametrize("how", [[], ["--resume"], ["--force"]])
@pytest.mark.usefixtures("few_pairs")
def test_two_trainings_into_one_folder_are_refused(how: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    make_images(Path("imgs"))
    words = train_words("gan", "run", BATCH)
    if how:
        assert run_cli(capsys, *words)[0] == 0
    Path("run").mkdir(exist_ok=True)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    with lock_directory(Path("run")):
        code, _, err = run_cli(capsys, *train_words("gan", "run", 2 * BATCH), *how)
    assert code == 2 and "another process is training in run" in err
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "words",
    [
        train_words("gan", "locked/run", BATCH),
        ["sample", "gan", "--seed", "1", "-n", "2", "-o", "locked/out/"],
        ["sample", "gan", "--seed", "1", "-o", "locked/grid.png"],
        ["sample", "gan", "--near", "imgs/0000.png", "-o", "locked/near.png"],
        ["interpolate", "gan", "--seeds", "1,2", "-o", "locked/walk.gif"],
        ["inpaint", "gan", "--image", "imgs/0000.png", "--box", "1,1,2,2", "-o", "locked/fill.png"],
        ["evaluate", "gan", "--data", "imgs", "-o", "locked/report.html"],
        ["embed", "vae", "--image", "imgs", "-o", "locked/vectors.csv"],
        ["search", "vae", "--data", "imgs", "--duplicates", "-o", "locked/found.png"],
        ["classify", "vae", "--image", "imgs", "-o", "locked/labels.csv"],
        ["segment", "segment", "--image", "imgs", "-o", "locked/masks"],
        ["segment", "segment", "--image", "imgs", "-o", "masks", "--sheet", "locked/sheet.png"],
        ["translate", "translate", "--image", "imgs", "-o", "locked/translated/"],
        ["translate", "translate", "--image", "imgs/0000.png", "-o", "locked/translated.png"],
        ["stylize", "--content", "imgs", "--style", "imgs/0000.png", "-o", "locked/styled/"],
        ["stylize", "--content", "imgs/0000.png", "--style", "imgs/0000.png", "-o", "locked/styled.png"],
        ["directions", "vae", "-o", "locked/directions.png"],
        ["export", "vae", "-o", "locked/vae.onnx"],
    ],
    ids=lambda words: words[0],
)
def test_a_folder_that_cannot_be_written_to_is_refused_before_work(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(Path("imgs"), 2)
    Path("locked").mkdir()
    access = os.access

    def denied(path: str | Path, mode: int) -> bool:
        return access(path, mode) and not (mode & os.W_OK and Path(path).name == "locked")

    monkeypatch.setattr(os, "access", denied)  # root may write anywhere, so permissions cannot be taken away
    code, _, err = run_cli(capsys, *words)
    assert code == 3 and "locked cannot be written to" in err
    assert not list(Path("locked").iterdir()) and not Path("cache").exists()
