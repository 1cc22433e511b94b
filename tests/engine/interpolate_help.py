"""A small model, walks of it, and their frames as another program reads them."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from imggen.engine.interpolation.interpolate import interpolate
from imggen.engine.options import InterpolateOptions, SampleOptions
from imggen.engine.sampling.sample import sample
from imggen.io.image import ImageArray
from imggen.models import build_backend, presets
from imggen.models.base import Backend
from imggen.reporting import Silent

CLASSES = ("fox", "owl", "elk")


def fresh(*, classes: bool = False, channels: int = 3) -> Backend:
    torch.manual_seed(3)
    names = CLASSES if classes else ()
    config = presets("gan")["tiny"].with_overrides(
        size=16, channels=channels, width=8, max_width=16, classes=names, class_counts=(5, 4, 3) if classes else ()
    )
    backend = build_backend(config)
    with torch.no_grad():  # a new network draws grey: larger weights make pictures that differ
        for parameter in backend.parameters():
            parameter.mul_(8)
    return backend.eval().requires_grad_(False)


def walk(model: str, output: str, **more: Any) -> dict[str, Any]:
    keys = {} if "start" in more or "seeds" in more else {"seeds": "3,14,15"}
    return interpolate(InterpolateOptions(model=model, output=output, **{**keys, **more}), Silent())


def drawn(model: str, seed: int, **more: Any) -> ImageArray:
    sample(SampleOptions(model=model, output="one.png", count=1, seed=seed, force=True, **more), Silent())
    with Image.open("one.png") as image:
        return np.asarray(image)


def frames_of(path: str) -> tuple[list[ImageArray], list[float]]:
    """Frames and how long each lasts, in milliseconds, as another program reads them."""
    if path.endswith(".mp4"):
        with av.open(path) as container:
            decoded = [frame.reformat(format="rgb24", src_colorspace="ITU709") for frame in container.decode(video=0)]
            found = [frame.to_ndarray() for frame in decoded]
            rate = container.streams.video[0].average_rate
            assert rate is not None
        return found, [float(1000 / rate)] * len(found)
    pictures, lasts = [], []
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()
            lasts.append(float(image.info["duration"]))
            pictures.append(np.asarray(image.convert("RGB")))
    return pictures, lasts


def folder_frames(path: str) -> list[ImageArray]:
    return [np.asarray(Image.open(file)) for file in sorted(Path(path).iterdir())]
