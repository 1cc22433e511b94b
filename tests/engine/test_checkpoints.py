"""Opening models by name or path."""

from pathlib import Path

import pytest

from imggen.engine.checkpoints import load_backend, save_backend
from imggen.errors import CheckpointError, DeviceError
from tests.helpers import small_gan


def test_an_own_run_is_preferred_to_the_shipped_model() -> None:
    shipped = load_backend("gan", device="cpu")
    assert shipped.origin == "shipped" and shipped.backend.classes == ("east", "north", "south", "west")
    Path("runs/gan").mkdir(parents=True)
    save_backend(Path("runs/gan/weights.safetensors"), small_gan(class_counts=(5, 90, 5)), {})
    assert load_backend("gan", device="cpu").origin == "your run runs/gan"
    assert load_backend("gan", weights=shipped.path, device="cpu").hash == shipped.hash
    with pytest.raises(CheckpointError) as caught:
        load_backend("gna")
    assert "gan" in str(caught.value.hint)
    with pytest.raises(DeviceError):
        load_backend("gan", device="tpu")
