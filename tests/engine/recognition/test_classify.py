"""Labels by a model's own classes, and the calibration of their probabilities."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imggen.engine import recognition, training
from imggen.engine.checkpoints import load_backend, save_backend
from imggen.engine.options import ClassifyOptions, TrainOptions
from imggen.errors import CheckpointError, DataError, UsageError
from imggen.io.checkpoint import read_header, write_checkpoint
from imggen.io.tensor_file import read_tensor_file
from imggen.models import build_backend, presets
from imggen.reporting import Silent
from tests.engine.recognition.conftest import write_photos
from tests.helpers import RecordingReporter, run_cli


def classify(model: str, reporter: Silent | None = None, **more: Any) -> dict[str, Any]:
    options = ClassifyOptions(model=model, **{"image": "photos", "device": "cpu", **more})
    return recognition.run_classify(options, reporter or Silent())


def test_labels_are_those_of_the_scores(photos: Path, model_files: dict[str, str]) -> None:
    result = classify(model_files["vae"], top=3, batch=5)
    assert result["count"] == 12 and [each["path"] for each in result["labels"]][:2] == [
        "photos/blue/0.png",
        "photos/blue/1.png",
    ]
    rows = list(csv.reader(result["csv"]))
    assert rows[0] == ["path", "label", "probability", "label2", "probability2", "label3", "probability3"]
    for row in rows[1:]:
        values = [float(value) for value in row[2::2]]
        assert values == sorted(values, reverse=True) and sum(values) == pytest.approx(1, abs=2e-3)
        assert set(row[1::2]) == {"red", "green", "blue"}
    one = classify(model_files["vae"], image="photos/blue/0.png", top=3)
    assert one["labels"][0]["classes"] == result["labels"][0]["classes"]
    sure = classify(model_files["vae"], above=1.0)
    assert all(each["classes"][0]["label"] == "" for each in sure["labels"] if each["classes"][0]["probability"] < 1)


def test_the_file_and_the_command_line(
    photos: Path, model_files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("classify", model_files["vae"], "--image", "photos", "--device", "cpu", "--quiet")
    code, out, _ = run_cli(capsys, *words)
    assert code == 0 and out.splitlines()[0] == "path,label,probability" and len(out.splitlines()) == 13
    code, printed, _ = run_cli(capsys, *words, "-o", "labels.csv")
    assert (code, printed) == (0, "labels.csv\n") and Path("labels.csv").read_text() == out
    code, _, err = run_cli(capsys, *words, "-o", "labels.csv")
    assert code == 2 and "already exists" in err
    code, printed, _ = run_cli(capsys, *words, "-o", "UPPER.CSV")
    assert (code, printed) == (0, "UPPER.CSV\n") and Path("UPPER.CSV").read_text() == out
    code, _, err = run_cli(capsys, *words, "-o", "labels.txt")
    assert code == 2 and ".csv" in err


def test_models_that_cannot_classify(photos: Path, model_files: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="has no classes"):
        classify(model_files["gan"])
    config = presets("gan")["tiny"].with_overrides(
        size=16, width=8, max_width=16, classes=("red", "blue"), class_counts=(1, 1)
    )
    save_backend(Path("young.safetensors"), build_backend(config), {})
    reporter = RecordingReporter()
    with pytest.raises(UsageError, match="has no trained encoder") as raised:
        classify("young.safetensors", reporter)
    assert "--encoder-fraction 1" in str(raised.value.hint)
    assert not reporter.warnings  # probabilities that it does not have need not be calibrated
    Path("empty").mkdir()
    with pytest.raises(DataError):
        classify(model_files["vae"], image="empty")


def test_temperatures_that_are_missing_or_wrong(photos: Path, model_files: dict[str, str]) -> None:
    path = Path(model_files["vae"])
    assert load_backend(path, device="cpu").class_temperature == 2.5
    header, tensors = read_header(path), read_tensor_file(path)
    document = {name: value for name, value in header.document.items() if name != "class_temperature"}
    write_checkpoint(Path("u.safetensors"), tensors, document, kind="weights")
    reporter = RecordingReporter()
    classify("u.safetensors", reporter)
    assert any("not calibrated" in warning for warning in reporter.warnings)
    for wrong in (0, -1, "2", None, True, 1e9, [1]):
        write_checkpoint(
            Path("w.safetensors"), tensors, {**header.document, "class_temperature": wrong}, kind="weights"
        )
        with pytest.raises(CheckpointError, match="class_temperature"):
            load_backend(Path("w.safetensors"), device="cpu")


@pytest.mark.usefixtures("few_pairs")
def test_training_teaches_and_calibrates() -> None:
    """A VAE of three colors names them, with probabilities that were fitted at the end of its training."""
    write_photos(Path("photos"), count=12)
    overrides = {"width": 8, "max_width": 8, "z": 2, "depth": 0.01, "mixtures": 2, "inpaint_fraction": 0.0}
    options = TrainOptions(
        family="vae", data="photos", output=Path("run"), size=16, preset="tiny", batch=12, images=12 * 40, seed=0,
        device="cpu", overrides={**overrides, "learning_rate": 6e-3},
    )  # fmt: skip
    training.run(options, Silent())
    reporter = RecordingReporter()
    result = classify("run", reporter)
    correct = [Path(each["path"]).parent.name == each["classes"][0]["label"] for each in result["labels"]]
    assert np.mean(correct) > 0.9 and not reporter.warnings
    assert load_backend("run", device="cpu").class_temperature is not None
    without = replace(options, output=Path("plain"), use_classes=False, images=24)
    training.run(without, Silent())
    assert load_backend("plain", device="cpu").class_temperature is None
    with pytest.raises(UsageError, match="has no classes"):
        classify("plain")


def test_uniform_ignores_the_frequencies(photos: Path, model_files: dict[str, str]) -> None:
    path = Path(model_files["vae"])
    header, tensors = read_header(path), read_tensor_file(path)
    config = {**header.document["config"], "class_counts": [10**6, 1, 1]}
    write_checkpoint(Path("rare.safetensors"), tensors, {**header.document, "config": config}, kind="weights")
    # The mean of the class embeddings differs too, but scores do not use it.
    equal = classify(model_files["vae"])["labels"]
    assert classify("rare.safetensors", uniform=True)["labels"] == equal
    favored = classify("rare.safetensors")["labels"]
    first = sum(each["classes"][0]["label"] == "red" for each in favored)
    assert first >= sum(each["classes"][0]["label"] == "red" for each in equal) and favored != equal
