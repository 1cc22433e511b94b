"""Small folders of images, and models that see them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imggen.engine.checkpoints import save_backend
from imggen.models import build_backend, presets

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 210)}


def write_photos(folder: Path, count: int = 4) -> Path:
    """`count` noisy images of each color, in a folder of its name."""
    random = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.clip(np.array(color) + random.normal(0, 12, (20, 20, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def photos() -> Path:
    return write_photos(Path("photos"))


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Untrained models: even these tell colors apart."""
    folder = tmp_path_factory.mktemp("models")
    files = {}
    small = {
        "gan": {"width": 8, "max_width": 16},
        "vae": {"width": 8, "max_width": 8, "z": 3, "depth": 0.01, "mixtures": 2},
    }
    for family, overrides in small.items():
        torch.manual_seed(3)
        classes = {"classes": tuple(COLORS), "class_counts": (4, 4, 4)} if family == "vae" else {}
        config = presets(family)["tiny"].with_overrides(size=16, **overrides, **classes)
        files[family] = str(folder / f"{family}.safetensors")
        temperature = 2.5 if family == "vae" else None
        save_backend(Path(files[family]), build_backend(config), {}, class_temperature=temperature)
    return files
