"""What a file holds: settings of an image, contents of a checkpoint; and which models there are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from imggen.data.decode import refuse_pipe
from imggen.engine.run_dir import RunDir
from imggen.errors import CheckpointError, DataError
from imggen.io.animation import ENDINGS, animation_text
from imggen.io.checkpoint import Header, read_header, weights_hash
from imggen.io.image import FORMATS, read_info, settings_in
from imggen.io.model_paths import find_weights, shipped_weights
from imggen.models import TRAINED, describe, presets

SUFFIXES_WITH_SETTINGS = {*FORMATS, *ENDINGS, ".tif", ".tiff"}


def describe_model_or_file(name: str) -> dict[str, Any]:
    """Describe a file, or the model of that name. Raises what `describe_file` raises."""
    path = Path(name)
    if not path.exists() and not path.suffix and path.name == name:
        path, _ = find_weights(name, weights=None, families=TRAINED)
    return describe_file(path)


def describe_file(path: Path) -> dict[str, Any]:
    """The settings and command of an image, or what a checkpoint or a run folder holds.

    Raises DataError for a file that is missing and for an image without settings, CheckpointError for a damaged
    checkpoint, UsageError for a pipe.
    """
    if not path.exists():
        raise DataError(f"there is no file {path}", "imggen models lists the models")
    refuse_pipe(path)
    if path.suffix.lower() in SUFFIXES_WITH_SETTINGS:
        return _describe_image(path)
    file = RunDir(path).weights if path.is_dir() else path
    return {"path": str(file), **_describe_checkpoint(read_header(file))}


def _describe_image(path: Path) -> dict[str, Any]:
    """The settings of an image, which cannot replace what is said of the file itself."""
    settings = settings_in(_animation_text(path)) if path.suffix.lower() == ".mp4" else read_info(path)
    if settings is None:
        raise DataError(
            f"{path} was not made by imggen, or its settings were removed",
            "PNG, JPEG, WebP, GIF, MP4 and TIFF files of imggen carry them",
        )
    own = {"kind": "image", "file": str(path)}
    return {**own, **{name: value for name, value in settings.items() if name not in (*own, "path")}}


def _animation_text(path: Path) -> str | None:
    try:
        return animation_text(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not an MP4 that can be read", "MP4 files of imggen carry settings") from error


def _describe_checkpoint(header: Header) -> dict[str, Any]:
    if header.kind == "vectors":
        names = ("model", "hash", "size", "channels", "source", "count")
        shape = header.tensors["vectors"].shape if "vectors" in header.tensors else ()
        described = {name: header.document.get(name) for name in names}
        return {"kind": header.kind, **described, "dimensions": shape[-1] if shape else None, "bytes": header.size}
    stored = header.document.get("config")
    config = dict(stored) if isinstance(stored, dict) else {}
    classes = config.pop("classes", [])
    classes = classes if isinstance(classes, list) else []
    config.pop("class_counts", None)
    return {
        "kind": header.kind,
        "family": config.pop("family", None),
        "preset": config.pop("preset", None),
        "size": config.pop("size", None),
        "channels": config.pop("channels", None),
        "classes": classes,
        **({"calibrated": header.document.get("class_temperature") is not None} if classes else {}),
        "parameters": sum(math.prod(info.shape) for info in header.tensors.values()),
        "bytes": header.size,
        "hash": weights_hash(header) or None,
        "thumbnail": "modelspec.thumbnail" in header.metadata,
        "settings": config,
        "provenance": header.document.get("provenance", {}),
    }


def list_models() -> dict[str, Any]:
    """Families with their presets, shipped models, and the runs below ./runs."""
    families = {family: {name: describe(family, name) for name in presets(family)} for family in TRAINED}
    runs = {str(folder): RunDir(folder).weights for folder in sorted(Path("runs").glob("*")) if folder.is_dir()}
    return {
        "families": families,
        "shipped": [_summarize(name, path) for name, path in shipped_weights().items() if name != "features"],
        "runs": [_summarize(name, path) for name, path in runs.items() if path.exists()],
    }


def _summarize(name: str, path: Path) -> dict[str, Any]:
    """A checkpoint in a line, or why it cannot be read."""
    try:
        described = _describe_checkpoint(read_header(path))
    except CheckpointError as error:
        return {"name": name, "path": str(path), "damaged": error.message}
    keys = ("family", "preset", "size", "channels", "hash", "bytes")
    return {
        "name": name,
        **{key: described[key] for key in keys},
        "classes": len(described["classes"]),
        "path": str(path),
    }
