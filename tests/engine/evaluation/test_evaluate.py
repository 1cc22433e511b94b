"""Evaluation as a whole: models, folders, floors, the report, what cannot be compared."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from imggen.engine.checkpoints import save_backend
from imggen.engine.evaluation import is_image_source
from imggen.engine.evaluation import run as evaluate
from imggen.engine.evaluation.report import number
from imggen.engine.evaluation.train_extractor import train as train_extractor
from imggen.engine.options import EvaluateOptions, TrainOptions
from imggen.engine.training import run as train
from imggen.errors import DataError, UsageError
from imggen.metrics.features import load_extractor
from imggen.models import build_backend, presets
from imggen.models.gan.backend import GanBackend
from imggen.reporting import Silent
from tests.helpers import browser_words, run_cli

pytestmark = pytest.mark.usefixtures("few_resamples")
Make = Callable[..., Path]


def make_image(random: np.random.Generator, kind: int) -> Image.Image:
    """A smooth small image: a bright disc or a bar on a shaded ground."""
    y, x = np.mgrid[:32, :32] / 31
    cy, cx, r = random.uniform(0.3, 0.7), random.uniform(0.3, 0.7), random.uniform(0.15, 0.3)
    shape = np.hypot(y - cy, x - cx) < r if kind == 0 else (abs(y - cy) < r / 2) & (abs(x - cx) < 2 * r)
    ground = 60 * y + 40 * x * random.uniform(0, 1)
    pixels = np.where(shape[..., None], random.uniform(120, 255, 3), ground[..., None])
    return Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a folder of such images; `change` is applied to each."""

    def folder(
        name: str, count: int, *, seed: int, kinds: tuple[int, ...] = (0, 1), change: Any = None, split: str = ""
    ) -> Path:
        random = np.random.default_rng(seed)
        for index in range(count):
            kind = kinds[index % len(kinds)]
            image = make_image(random, kind)
            path = tmp_path / name / split / ("disc", "bar")[kind] / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            (change(image) if change else image).save(path)
        return tmp_path / name

    return folder


def compared(one: Path | str, two: Path | str, **more: Any) -> dict[str, float]:
    found = evaluate(EvaluateOptions(model=str(one), data=str(two), device="cpu", **more), Silent())
    return {name: metric["value"] for name, metric in found["metrics"].items()}


@pytest.mark.slow
def test_folders_worse_and_worse(make: Make) -> None:
    """Blur, noise, a dropped class and repetition each change the metric that measures them."""
    data = make("data", 240, seed=0)
    good = compared(make("good", 100, seed=1), data)
    blurred = [
        compared(make(f"blur{r}", 100, seed=1, change=lambda p, r=r: p.filter(ImageFilter.GaussianBlur(r))), data)
        for r in (1, 2)
    ]
    random = np.random.default_rng(5)

    def noise(image: Image.Image) -> Image.Image:
        return Image.fromarray((np.asarray(image) + random.normal(0, 25, (32, 32, 3))).clip(0, 255).astype(np.uint8))

    noisy = compared(make("noise", 100, seed=1, change=noise), data)
    half = compared(make("half", 100, seed=1, kinds=(0,)), data)
    kept = make_image(np.random.default_rng(9), 0)
    same = compared(make("same", 100, seed=1, change=lambda _: kept), data)
    assert 0 <= good["fd"] < blurred[0]["fd"] < blurred[1]["fd"]
    assert good["fd"] < noisy["fd"] and good["fd"] < half["fd"] < same["fd"]
    assert good["kd"] < min(blurred[1]["kd"], noisy["kd"], half["kd"], same["kd"])
    assert half["recall"] < 0.8 * good["recall"] and half["coverage"] < 0.8 * good["coverage"]
    assert same["recall"] < 0.1 and same["coverage"] < 0.1
    assert noisy["precision"] < good["precision"]
    assert good["accuracy"] > 0.95


@pytest.mark.slow
def test_memorized_images_show_in_the_nearest_distance(make: Make) -> None:
    make("data", 150, seed=0, split="train")
    data = make("data", 100, seed=1, split="test")
    copies = make("copies", 100, seed=0)
    found = evaluate(EvaluateOptions(model=str(copies), data=str(data), device="cpu"), Silent())
    assert found["metrics"]["nearest"]["value"] < 0.5 * found["floor"]["nearest"]["value"]
    assert found["closest"][0]["distance"] == pytest.approx(0, abs=1e-4)
    assert found["metrics"]["copied"]["value"] > 0.9 and found["floor"]["copied"]["value"] <= 0.01
    # Without a test split, copies of the images that were set apart are detected too.
    flat = make("flat", 200, seed=0)
    apart = evaluate(EvaluateOptions(model=str(flat), data=str(flat), device="cpu", count=200), Silent())
    assert all(pair["distance"] < 1e-4 for pair in apart["closest"])


@pytest.mark.slow
@pytest.mark.usefixtures("few_pairs")
def test_a_model_against_its_data_with_a_test_split(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    make("data", 160, seed=0, split="train")
    data = make("data", 80, seed=1, split="test")
    options = TrainOptions(
        family="gan", data=str(data), output=Path("run"), device="cpu", images=160, seed=1,
        overrides={"width": 8, "max_width": 16},
    )  # fmt: skip
    monkeypatch.setattr("imggen.engine.training.loop.SECONDS_BETWEEN_REPORTS", 0.0)
    train(options, Silent())
    given = EvaluateOptions(model="run", data=str(data), count=80, device="cpu", output=Path("r.html"))
    found = evaluate(given, Silent())
    digest = load_extractor()[1]
    assert found["held_out"] == "test split, 80 images" and found["count"] == 80 and found["reference_count"] == 160
    assert set(found["metrics"]) == {
        "fd", "kd", "precision", "recall", "density", "coverage", "nearest", "copied", "accuracy",
    }  # fmt: skip
    for metric in (*found["metrics"].values(), *found["floor"].values()):
        assert metric["low"] <= metric["value"] <= metric["high"] and metric["features"] == digest
    assert all(found["metrics"][name]["low"] < found["metrics"][name]["high"] for name in ("fd", "kd"))
    assert found["floor"]["fd"]["value"] < found["metrics"]["fd"]["value"]
    # Again, from the cache and the same seeds: the same metrics.
    again = evaluate(EvaluateOptions(model="run", data=str(data), count=80, device="cpu"), Silent())
    assert again["metrics"] == found["metrics"] and again["floor"] == found["floor"]
    with pytest.raises(UsageError, match="already exists"):
        evaluate(given, Silent())
    page = Path("r.html").read_text(encoding="utf-8")
    assert "polyline" in page and "loss_d" in page and page.count("data:image/png;base64,") >= 5
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


@pytest.mark.slow
@pytest.mark.browser
def test_the_report_in_a_real_browser(make: Make) -> None:
    words = browser_words()
    data = make("data", 200, seed=0)
    given = EvaluateOptions(model=str(make("g", 40, seed=1)), data=str(data), device="cpu", output=Path("r.html"))
    evaluate(given, Silent())
    page = Path("r.html").resolve().as_uri()
    shot = subprocess.run(
        [*words, "--window-size=1000,1600", f"--screenshot={Path('r.png').resolve()}", page],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert Path("r.png").exists(), shot.stderr.decode(errors="replace")
    with Image.open("r.png") as image:
        assert image.size == (1000, 1600) and len(set(image.convert("RGB").resize((200, 320)).tobytes())) > 100
    probe = Path("probe.html")
    script = (
        "<script>addEventListener('load',()=>{const i=[...document.images];document.title="
        "[i.length,i.filter(x=>x.complete&&x.naturalWidth>0).length,document.querySelectorAll('tr').length,"
        "document.documentElement.scrollWidth<=innerWidth].join(' ')})</script></body>"
    )
    probe.write_text(Path("r.html").read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    done = subprocess.run(
        [*words, "--dump-dom", probe.resolve().as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr
    images, shown, rows, fits = title[1].split()
    assert images == shown and int(images) >= 3 and int(rows) >= 8 and fits == "true"


@pytest.mark.slow
def test_no_network_is_needed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert compared(make("g", 20, seed=1), make("data", 200, seed=0))["fd"] > 0


def uniform_likelihood(backend: GanBackend, images: torch.Tensor, labels: None = None) -> torch.Tensor:
    return -images[:, 0, 0, 0] * 0 - 3072 * np.log(256)


@pytest.mark.slow
def test_bits_where_a_family_gives_a_likelihood(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A uniform likelihood is 8 bits for every channel of every pixel."""
    data = make("data", 200, seed=0)
    save_backend(Path("m.safetensors"), build_backend(presets("gan")["tiny"].with_overrides(size=32)), {})
    given = EvaluateOptions(model="m.safetensors", data=str(data), count=20, device="cpu", output=Path("r.html"))
    assert "bits" not in evaluate(given, Silent())["metrics"]
    monkeypatch.setattr(GanBackend, "binarized", False, raising=False)
    monkeypatch.setattr(GanBackend, "log_likelihood", uniform_likelihood, raising=False)
    found = evaluate(replace(given, force=True), Silent())["metrics"]
    assert found["bits"]["value"] == pytest.approx(8)
    for name in ("bits_png", "bits_webp"):
        assert 0.5 < found[name]["value"] < 8
    assert "PNG" in Path("r.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_sizes_and_modes_may_differ(make: Make, tmp_path: Path) -> None:
    data = make("data", 30, seed=0)
    for index, path in enumerate(sorted(data.rglob("*.png"))):
        if index % 3 == 0:
            with Image.open(path) as image:
                image.resize((40 + index, 33)).convert("L" if index % 2 else "RGBA").save(path)
    found = compared(data, data, count=30)
    assert all(np.isfinite(value) for value in found.values())
    large = compared(data, data, size=96)
    assert all(np.isfinite(value) for value in large.values())


@pytest.mark.slow
def test_too_few_images_are_refused(make: Make) -> None:
    data = make("data", 100, seed=0)
    for count in (1, 9):
        with pytest.raises(DataError, match="too few"):
            compared(make(f"few{count}", count, seed=1), data)
    with pytest.raises(DataError, match="too few"):
        compared(data, make("one", 3, seed=1))
    for count in (1, 5, 9):
        for model in (data, "gan"):
            with pytest.raises(UsageError, match="too few"):
                compared(model, data, count=count)
    with pytest.raises(UsageError, match="size"):
        compared("gan", data, size=64)
    compared(data, data, count=10)
    found = evaluate(EvaluateOptions(model=str(make("ten", 12, seed=1)), data=str(data), device="cpu"), Silent())
    assert all(np.isfinite(metric["value"]) for metric in found["metrics"].values())


@pytest.mark.slow
def test_without_a_split_some_are_set_apart(make: Make) -> None:
    found = evaluate(
        EvaluateOptions(model=str(make("g", 30, seed=1)), data=str(make("d", 200, seed=0)), device="cpu"), Silent()
    )
    assert "set apart" in found["held_out"] and found["reference_count"] == 100 and found["floor"]["fd"]["count"] == 100


@pytest.mark.slow
def test_only_inceptions_distances_are_called_fid(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torch-fidelity's network: it gets bytes in three channels, whatever the images have."""

    class Network(torch.nn.Module):
        def __init__(self, name: str, features: list[str], feature_extractor_weights_path: str | None) -> None:
            super().__init__()
            assert features == ["2048"] and feature_extractor_weights_path == "w.pth"
            self.mixing = torch.nn.Parameter(torch.randn(3, 12, generator=torch.Generator().manual_seed(0)))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            assert x.dtype == torch.uint8 and x.shape[1] == 3 and len(x) <= 4096
            means = x.float().mean((2, 3)) / 255
            return (torch.cat([means @ self.mixing, x.float().std((2, 3)) / 255], 1),)

    stub = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    vars(stub)["FeatureExtractorInceptionV3"] = Network
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    Path("w.pth").write_bytes(b"x")
    data, other = make("data", 200, seed=0), make("g", 60, seed=1, change=lambda p: p.convert("LA"))
    given = EvaluateOptions(model=str(other), data=str(data), device="cpu", features="inception:w.pth")
    found = evaluate(given, Silent())
    assert {"fid", "kid"} <= set(found["metrics"]) and "fd" not in found["metrics"]
    assert found["features"]["name"] == "inception" and len(found["features"]["hash"]) == 12


@pytest.mark.slow
def test_damaged_caches_are_computed_again(make: Make) -> None:
    data, other = make("data", 200, seed=0), make("g", 20, seed=1)
    first = compared(other, data)
    for path in Path("cache/features").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 64
        path.write_bytes(content)
    assert compared(other, data) == first
    shutil.rmtree("cache")
    assert compared(other, data, cache="none") == first and not list(Path("cache").glob("*/images.npy"))


@pytest.mark.slow
def test_the_extractor_can_be_trained_again(make: Make) -> None:
    make("data", 200, seed=0, split="train")
    data = str(make("data", 60, seed=1, split="test"))
    extractor, (accuracy,) = train_extractor([data], [1], [data], images=480, batch=32, seed=0)
    assert accuracy > 0.8 and extractor.logits.out_features == 2
    raw = extractor(torch.rand(50, 3, 32, 32) * 2 - 1)
    assert torch.isfinite(raw).all() and (extractor.scale > 0).all()


@pytest.mark.slow
def test_on_the_command_line(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(make("g", 40, seed=1)), "--data", str(make("data", 200, seed=0)), "--quiet"]
    code, out, _ = run_cli(capsys, *words, "-o", "r.html")
    assert code == 0 and out.splitlines()[-1] == "r.html" and re.search(r"^fd +\d", out, re.MULTILINE)
    assert json.loads(run_cli(capsys, *words, "--json")[1])["metrics"]["fd"]["count"] == 40
    for wrong in ("r.txt", "r.html"):
        assert run_cli(capsys, *words, "-o", wrong)[0] == 2


def test_folders_of_images_and_names_of_models() -> None:
    """The name of a shipped model is a model, even where a folder has the same name."""
    for name in ("gan-emoji", "cats"):
        Path(name).mkdir()
        Image.new("L", (8, 8)).save(f"{name}/0.png")
    Path("weights").write_bytes(b"a checkpoint by another name")
    expected = {"gan-emoji": False, "cats": True, "weights": False}
    assert {name: is_image_source(EvaluateOptions(model=name, data="x")) for name in expected} == expected


def test_options_that_do_not_apply_to_a_folder_are_refused(make: Make) -> None:
    folder = str(make("data", 20, seed=0))
    for more in ({"temperature": 0.5}, {"top_k": 3}, {"iw": 5}):
        with pytest.raises(UsageError, match="is a folder of images"):
            evaluate(EvaluateOptions(model=folder, data=folder, count=10, device="cpu", **more), Silent())


@pytest.mark.parametrize("name", ["inceptoin", "nothing.safetensors", "inception:nothing.pth"])
def test_unknown_features_are_refused_early(name: str) -> None:
    with pytest.raises(DataError, match="no features") as caught:
        evaluate(EvaluateOptions(model="gan", data="imgs", features=name), Silent())
    assert "inception:FILE" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0.000"), (12.345, "12.3"), (0.012345, "0.0123"), (1234.5, "1234"), (1e-9, "1.00e-09")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
