"""Blending without a seam, and filling without a model."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imggen.engine import inpainting
from imggen.engine.info import describe_file
from imggen.engine.inpainting.blending import poisson_blend, solve_laplace
from imggen.engine.options import InpaintOptions
from imggen.reporting import Silent
from tests.helpers import read_pixels


def test_seams_are_blended() -> None:
    random = np.random.default_rng(0)
    truth = np.add.outer(np.linspace(0, 200, 48), np.linspace(0, 40, 48))[..., None].astype(np.float32)
    mask = np.zeros((48, 48), bool)
    mask[12:37, 9:30] = True
    wrong = truth + 30 + np.linspace(0, 20, 48)[None, :, None].astype(np.float32)
    blended = poisson_blend(wrong, truth, ~mask, mask)
    assert np.abs(blended - truth)[mask].max() < 1.5 < np.abs(wrong - truth)[mask].min()
    assert np.array_equal(poisson_blend(truth, truth, ~mask, mask), truth)
    smooth = solve_laplace(random.normal(0, 1, (48, 48, 3)).astype(np.float32), ~mask, mask)
    assert np.abs(smooth[20:28, 16:22]).max() < 0.6
    assert np.array_equal(solve_laplace(truth, np.zeros_like(mask), mask), np.zeros_like(truth))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_classical_needs_no_model(mode: str) -> None:
    y, x = np.mgrid[:40, :50]
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    smooth = (y * 3 + x * 2).astype(np.uint8)[..., None].repeat(channels, 2)
    Image.fromarray(smooth[..., 0] if mode == "L" else smooth).save("x.png")
    options = InpaintOptions(image=Path("x.png"), output="y.png", method="classical", boxes=((20, 0, 2, 40),))
    inpainting.run(options, Silent())
    before, after = read_pixels("x.png"), read_pixels("y.png")
    assert np.abs(after.astype(int) - before).max() <= 2
    assert np.array_equal(after[:, :20], before[:, :20])
    assert describe_file(Path("y.png"))["method"] == "classical"
