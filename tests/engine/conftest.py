"""What the tests of walks and of filling share."""

from pathlib import Path
from typing import Any

import pytest

from imggen.engine.checkpoints import save_backend
from imggen.engine.inpainting.inpaint import inpaint
from imggen.engine.options import InpaintOptions
from imggen.models import build_backend, presets
from imggen.models.gan.backend import GanBackend as GanBackend
from imggen.reporting import Silent
from tests.engine.inpaint_help import Call, quick
from tests.engine.interpolate_help import fresh


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Fill with a model of so many channels, of 16 pixels, whose fills cost nothing."""
    monkeypatch.setattr(GanBackend, "inpaint", quick)
    for channels in (1, 3, 4):
        config = presets("gan")["tiny"].with_overrides(size=16, channels=channels, width=8, max_width=16)
        save_backend(tmp_path / f"{channels}.safetensors", build_backend(config), {})

    def run(image: str, output: str, channels: int = 3, reporter: Silent | None = None, **more: Any) -> dict[str, Any]:
        options = InpaintOptions(
            model=str(tmp_path / f"{channels}.safetensors"), image=Path(image), output=output, **{"seed": 5, **more}
        )
        return inpaint(options, reporter or Silent())

    return run


@pytest.fixture
def model(tmp_path: Path) -> str:
    save_backend(tmp_path / "m.safetensors", fresh(), {})
    return str(tmp_path / "m.safetensors")


@pytest.fixture
def classed(tmp_path: Path) -> str:
    save_backend(tmp_path / "c.safetensors", fresh(classes=True), {})
    return str(tmp_path / "c.safetensors")
