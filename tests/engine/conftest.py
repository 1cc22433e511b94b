"""Small GANs that the tests of several verbs sample from."""

from pathlib import Path

import pytest

from imggen.engine.checkpoints import save_backend
from tests.helpers import small_gan


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with plain.safetensors, without classes, and classes.safetensors, with three."""
    folder = tmp_path_factory.mktemp("models")
    save_backend(folder / "plain.safetensors", small_gan(gain=8), {})
    save_backend(folder / "classes.safetensors", small_gan(class_counts=(5, 4, 3), gain=8), {})
    return folder


@pytest.fixture
def model(small_models: Path) -> str:
    return str(small_models / "plain.safetensors")


@pytest.fixture
def class_model(small_models: Path) -> str:
    return str(small_models / "classes.safetensors")
