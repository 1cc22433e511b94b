"""Load models from checkpoints and save them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from imggen.documents import DocumentError, Kind, read_fields
from imggen.engine.device import configure_device, find_device, find_precision
from imggen.engine.distributed import ProcessGroup
from imggen.engine.options import ModelOptions
from imggen.errors import CheckpointError, UsageError
from imggen.io.checkpoint import read_header, read_tensors, weights_hash, write_checkpoint
from imggen.io.model_paths import find_weights
from imggen.metrics.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE
from imggen.models import TRAINED, build_model, kind_of, read_model_config
from imggen.models.base import Backend, Model
from imggen.models.config import ModelConfig
from imggen.reporting import Reporter


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode, the file it was read from, and the precision to sample in.

    `origin` says how the file was chosen, `hash` identifies the weights, `provenance` is how they were made.
    `class_temperature` is what class scores must be divided by to give probabilities, None if that was not measured.
    """

    model: Model
    path: Path
    origin: str
    hash: str
    provenance: dict[str, Any]
    dtype: torch.dtype = torch.float32
    class_temperature: float | None = None

    @property
    def backend(self) -> Backend:
        """The model, if it is a generator. Raises UsageError, with what its kind is for."""
        if not isinstance(self.model, Backend):
            noun, _, use = kind_of(self.model.config.family)
            raise UsageError(f"{self.path} is a {noun}: it makes no images", use)
        return self.model

    def calibrated_temperature(self, reporter: Reporter) -> float:
        """What class scores are divided by to become probabilities; 1 with a warning if they were not calibrated."""
        if self.class_temperature is None:
            reporter.warn(
                "the probabilities of this model are not calibrated, and may be far off: its training was not ended, "
                "or had too few images"
            )
            return 1.0
        return self.class_temperature

    def for_inference(self) -> Backend:
        """The generator arranged for speed; within `keeping_models` it is arranged once."""
        if _kept is None:
            return self.backend.for_inference()
        if self.backend not in _kept.for_inference:
            _kept.for_inference[self.backend] = self.backend.for_inference()
        return _kept.for_inference[self.backend]


_TEMPERATURE = Kind(
    f"a number from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}",
    lambda value: type(value) in (int, float) and MIN_TEMPERATURE <= value <= MAX_TEMPERATURE,
)


class _SkipInitialization(TorchFunctionMode):
    """Leave new tensors uninitialized: random numbers on "meta" would import torch's compiler, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init" or func in _RANDOM_FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


_RANDOM_FILLS = (torch.Tensor.normal_, torch.Tensor.uniform_)


def read_config(document: dict[str, Any], path: Path) -> ModelConfig:
    """Read the configuration from a checkpoint's document. Raises CheckpointError."""
    config = document.get("config")
    try:
        return read_model_config(config if isinstance(config, dict) else {})
    except CheckpointError as error:
        hint = error.hint or "copy it again, or use another checkpoint"
        raise CheckpointError(f"{path}: {error.message}", hint) from error


def load_backend(model: str | Path, *, weights: Path | None = None, device: str = "auto") -> LoadedModel:
    """`load_model` for what needs a generator. Raises UsageError for a model of another kind."""
    loaded = load_model(model, weights=weights, device=device)
    _ = loaded.backend
    return loaded


def load_model(model: str | Path, *, weights: Path | None = None, device: str = "auto") -> LoadedModel:
    """Find, check and build a model of any kind in eval mode. Raises CheckpointError and DeviceError."""
    if _kept is None:
        return _read_model(model, weights, device)
    key = str(model), weights, device
    if key not in _kept.models:
        _kept.models[key] = _read_model(model, weights, device)
    return _kept.models[key]


@dataclass(frozen=True)
class _Kept:
    """The models of `keeping_models` by what they were asked for with, and each one's `for_inference`."""

    models: dict[tuple[str, Path | None, str], LoadedModel]
    for_inference: dict[Backend, Backend]


_kept: _Kept | None = None


@contextmanager
def keeping_models() -> Iterator[None]:
    """Within the block each model is read once, at the first `load_model` of its name, and then kept in memory.

    For a process that serves many requests to one model; its threads must use it one at a time.
    """
    global _kept
    previous, _kept = _kept, _Kept({}, {})
    try:
        yield
    finally:
        _kept = previous


def _read_model(model: str | Path, weights: Path | None, device: str) -> LoadedModel:
    path, origin = find_weights(str(model), weights=weights, families=TRAINED)
    header = read_header(path, kind="weights")
    config = read_config(header.document, path)
    # A model on "meta" needs no memory: shapes are checked before a damaged file can ask for a huge model.
    with torch.device("meta"), _SkipInitialization():
        built = build_model(config)
    tensors = read_tensors(path, header, built.state_dict())
    built.load_state_dict(tensors, assign=True)
    built.to(find_device(device, ProcessGroup.from_environment().local_rank)).eval().requires_grad_(False)
    provenance, temperature = header.document.get("provenance", {}), _class_temperature(header.document, path)
    return LoadedModel(built, path, origin, weights_hash(header), provenance, class_temperature=temperature)


def _class_temperature(document: dict[str, Any], path: Path) -> float | None:
    """The temperature of the class scores, None if they were not calibrated. Raises CheckpointError."""
    if "class_temperature" not in document:
        return None
    try:
        return float(read_fields(document, {"class_temperature": _TEMPERATURE})["class_temperature"])
    except DocumentError as error:
        raise CheckpointError(
            f"{path} has a damaged description: it {error}", "copy it again, or use another checkpoint"
        ) from error


def open_model(options: ModelOptions, model: str, reporter: Reporter, *, precision: str = "fp32") -> LoadedModel:
    """Load the model of a verb, check that it supports the sampling options, and set up its device.

    Raises UsageError, CheckpointError and DeviceError.
    """
    sampling = options.sampling
    loaded = load_backend(model, weights=options.weights, device=options.device)
    backend = loaded.backend
    backend.check_options(sampling)
    dtype = find_precision(precision, backend.device, training=False)
    prepare(loaded, reporter, full_precision=backend.needs_full_precision)
    return replace(loaded, dtype=dtype)


def prepare(loaded: LoadedModel, reporter: Reporter, *, full_precision: bool) -> None:
    """Set up the device of a loaded model, and report both."""
    device = loaded.model.device
    configure_device(device, full_precision=full_precision)
    reporter.info(f"model {loaded.path} ({loaded.origin}, {loaded.hash}) on {device}")


def save_backend(
    path: Path,
    model: Model,
    provenance: dict[str, Any],
    *,
    thumbnail: bytes | None = None,
    dtype: torch.dtype = torch.float32,
    class_temperature: float | None = None,
) -> None:
    """Write the weights and configuration. `dtype` float16 halves the file; buffers keep their dtype."""
    weights = dict(model.named_parameters())
    tensors = {
        name: tensor.to("cpu", dtype if name in weights else tensor.dtype)
        for name, tensor in model.state_dict().items()
    }
    document: dict[str, Any] = {"config": model.config.to_json(), "provenance": provenance}
    if class_temperature is not None:
        document["class_temperature"] = class_temperature
    write_checkpoint(path, tensors, document, kind="weights", thumbnail=thumbnail)
