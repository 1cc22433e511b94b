"""Interpolations of small models, and the images that they must contain."""

from pathlib import Path
from typing import Any

from imggen.engine import interpolation, sampling
from imggen.engine.options import InterpolateOptions, SampleOptions
from imggen.io.image import ImageArray
from imggen.reporting import Silent
from tests.helpers import read_pixels


def interpolate(model: str, output: str, **more: Any) -> dict[str, Any]:
    """Interpolate between the seeds 3, 14 and 15, if no others and no images are given."""
    keyframes = {} if "start" in more or "seeds" in more else {"seeds": "3,14,15"}
    options = InterpolateOptions(model=model, output=output, device="cpu", **{**keyframes, **more})
    return interpolation.run(options, Silent())


def sample_image(model: str, seed: int, **more: Any) -> ImageArray:
    """The image that `imggen sample` generates for a seed."""
    options = SampleOptions(model=model, output="one.png", count=1, seed=seed, force=True, device="cpu", **more)
    sampling.run(options, Silent())
    return read_pixels("one.png")


def read_folder(path: str) -> list[ImageArray]:
    """The frames in a folder, in the order of their names."""
    return [read_pixels(file) for file in sorted(Path(path).iterdir())]
