"""Whose features: the shipped extractor's, another file's, or Inception's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from imggen.errors import CheckpointError, UsageError
from imggen.io.image import Bytes
from imggen.metrics.extractor import load_extractor, to_colour


@dataclass(frozen=True)
class Features:
    """Pictures (B, H, W, C), uint8 → features (B, D), float32; and what they are called."""

    name: str
    hash: str
    extract: Callable[[Bytes], Tensor]
    inception: bool = False


def load_features(name: str | None, device: torch.device) -> Features:
    """None is the shipped extractor; `inception` or `inception:FILE` torch-fidelity's; else a file of an extractor.

    Raises CheckpointError, and UsageError when the extra is missing.
    """
    if name is not None and name.split(":")[0] == "inception":
        return _inception(Path(name.partition(":")[2]) if ":" in name else None, device)
    extractor, digest = load_extractor(None if name is None else Path(name))
    extractor.to(device)

    def extract(pictures: Bytes) -> Tensor:
        found: Tensor = extractor(_channels_first(pictures, device).float().div_(127.5).sub_(1))
        return found

    return Features("imggen" if name is None else Path(name).name, digest, _in_parts(extract, 250 * 32 * 32))


def _in_parts(extract: Callable[[Bytes], Tensor], pixels: int) -> Callable[[Bytes], Tensor]:
    """The same for any number of pictures, at most about `pixels` pixels at a time, and in full float32 everywhere."""

    @torch.inference_mode()
    def whole(pictures: Bytes) -> Tensor:
        size = max(1, pixels // (pictures.shape[1] * pictures.shape[2]))
        # CUDA's shortened multiplications would make other features of the same picture than a CPU does.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            parts = [extract(pictures[start : start + size]) for start in range(0, len(pictures), size)]
        return torch.cat(parts).float().cpu()

    return whole


def _channels_first(pictures: Bytes, device: torch.device) -> Tensor:
    return torch.from_numpy(np.require(pictures, requirements=("C", "W"))).to(device).permute(0, 3, 1, 2)


def _inception(path: Path | None, device: torch.device) -> Features:
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UsageError("Inception's features need torch-fidelity", "pip install 'imggen[eval]'") from error
    if path is not None and not path.is_file():
        raise CheckpointError(f"there is no file {path}", "--features inception downloads the weights")
    # Its weights are a pickle: only tensors may come out of it.
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        build: Callable[..., torch.nn.Module] = FeatureExtractorInceptionV3
        network = build(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=None if path is None else str(path)
        )
    except Exception as error:  # of the network, of the disk, of a file that is something else
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"Inception's weights cannot be had: {reason}", "--features inception:FILE takes a file that you have"
        ) from error
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
    network.eval().requires_grad_(False).to(device)
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    def extract(pictures: Bytes) -> Tensor:
        # It takes bytes in three channels and resizes by itself, as the reference implementation does.
        levels = to_colour(_channels_first(pictures, device).float().div_(127.5).sub_(1))
        found: Tensor = network(levels.add(1).mul_(127.5).round_().to(torch.uint8))[0]
        return found

    return Features("inception", digest.hexdigest()[:12], _in_parts(extract, 32 * 299 * 299), inception=True)
