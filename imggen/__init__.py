"""imggen: train a model on a folder of pictures, then draw from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from imggen.models.base import Backend

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(model: str | Path, *, device: str = "auto") -> Backend:
    """Load a model: a family's name ("gan") or the path of a checkpoint.

    A name means `runs/<name>/weights.safetensors` below the current folder if it is there, else the
    shipped weights. Returns the backend in eval mode on `device` ("auto", "cpu", "cuda", "mps").
    Raises `imggen.errors.CheckpointError` when there is no such model or it cannot be read.
    """
    from imggen.engine.checkpoints import load_backend

    return load_backend(model, device=device).backend
