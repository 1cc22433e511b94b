"""What `evaluate` says of how well a generator recognizes classes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from imggen.cli.evaluate import result_lines
from imggen.engine import recognition
from imggen.engine.checkpoints import save_backend
from imggen.engine.evaluation import run as evaluate
from imggen.engine.options import ClassifyOptions, EvaluateOptions
from imggen.models import build_backend, presets
from imggen.reporting import Silent
from tests.engine.recognition.conftest import COLORS, write_photos
from tests.helpers import small_gan


def measured(model: str, data: str, **more: Any) -> dict[str, Any]:
    return evaluate(EvaluateOptions(model=model, data=data, device="cpu", count=12, **more), Silent())


@pytest.fixture
def vae() -> str:
    """An untrained model of three classes: its features tell colors apart, its classes do not."""
    torch.manual_seed(3)
    config = presets("vae")["tiny"].with_overrides(
        size=16,
        width=8,
        max_width=8,
        z=3,
        depth=0.01,
        mixtures=2,
        classes=tuple(sorted(COLORS)),
        class_counts=(4, 4, 4),
    )
    save_backend(Path("vae.safetensors"), build_backend(config), {})
    return "vae.safetensors"


def test_labels_of_held_out_images(vae: str) -> None:
    write_photos(Path("photos/train"), count=6)
    write_photos(Path("photos/test"), count=4)
    result = measured(vae, "photos", output=Path("r.html"))
    found = result["recognition"]
    assert (found["count"], found["known_count"]) == (12, 18)
    labels = recognition.run_classify(ClassifyOptions(model=vae, image="photos/test", device="cpu"), Silent())["labels"]
    right = sum(each["path"].split("/")[-2] == each["classes"][0]["label"] for each in labels)
    assert found["own_classes"]["value"] == pytest.approx(right / 12)
    assert found["neighbors"]["value"] == found["pixels"]["value"] == 1
    assert found["majority"]["value"] == pytest.approx(1 / 3)
    (line,) = [line for line in result_lines(result) if line.startswith("recognition: own classes ")]
    assert ", k-NN 100.0 % (k-NN of pixels 100.0 %, untrained " in line and "majority 33.3 %; 12 images)" in line
    page = Path("r.html").read_text(encoding="utf-8")
    assert "By the model&#x27;s own classes" in page and "among 18 others" in page


def test_data_without_a_test_split_is_halved_and_without_classes_not_used() -> None:
    write_photos(Path("photos"), count=10)
    config = small_gan().config.with_overrides(classes=tuple(sorted(COLORS)), class_counts=(10, 10, 10))
    save_backend(Path("gan.safetensors"), build_backend(config), {})  # a GAN has classes, but cannot tell them
    found = measured("gan.safetensors", "photos")["recognition"]
    assert (found["count"], found["known_count"]) == (12, 15) and "own_classes" not in found
    assert found["neighbors"]["value"] > 0.9
    assert "recognition" not in measured("gan.safetensors", "photos/green")
    assert "recognition" not in measured("photos", "photos")


def test_a_gan_without_discriminator_sees_by_its_encoder_and_so_does_the_untrained_one() -> None:
    write_photos(Path("photos"), count=8)
    torch.manual_seed(5)
    backend = build_backend(small_gan().config.with_overrides(slim=True, encoder_fraction=0.1))
    for name, value in backend.named_buffers():
        if name == "encoder.trained":
            value.fill_(1)
    save_backend(Path("gan.safetensors"), backend, {})
    found = measured("gan.safetensors", "photos")["recognition"]
    assert found["neighbors"]["value"] > 0.9 and found["untrained"]["value"] > 0.5
