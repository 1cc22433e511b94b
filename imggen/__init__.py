"""imggen: train a generative model on a folder of images, then sample, interpolate and inpaint with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from imggen.models.base import Model

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(model: str | Path, *, device: str = "auto") -> Model:
    """Load a model: a family's or shipped model's name ("gan"), a run folder, or a checkpoint.

    A name means `runs/<name>/weights.safetensors` below the current folder if that exists, else the
    shipped weights. Returns it in eval mode on `device` ("auto", "cpu", "cuda", "cuda:1", "mps").
    Raises `imggen.errors.CheckpointError` when there is no such model or it cannot be read, and
    `imggen.errors.DeviceError` when there is no such device.
    """
    from imggen.engine.checkpoints import load_model

    return load_model(model, device=device).model
