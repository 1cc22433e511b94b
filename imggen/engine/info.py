"""What a file is: settings of a picture, contents of a checkpoint; and which models there are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from imggen.engine.run_dir import RunDir
from imggen.errors import CheckpointError, DataError
from imggen.io.animation import ENDINGS, animation_text
from imggen.io.checkpoint import Header, read_header, weights_hash
from imggen.io.image import FORMATS, read_info, settings_in
from imggen.io.model_paths import shipped_weights
from imggen.models import FAMILIES, describe, presets

CARRIERS = {*FORMATS, *ENDINGS, ".tif", ".tiff"}


def describe_file(path: Path) -> dict[str, Any]:
    """A picture's settings and command, or what a checkpoint or a run's folder holds; errors as in `imggen.errors`."""
    if not path.exists():
        raise DataError(f"there is no file {path}")
    ending = path.suffix.lower()
    if ending in CARRIERS:
        found = settings_in(_animation_text(path)) if ending in (".gif", ".mp4") else read_info(path)
        if found is None:
            raise DataError(
                f"{path} was not drawn by imggen, or its settings were removed",
                "PNG, JPEG, WebP, GIF and MP4 keep them",
            )
        return {"kind": "picture", "path": str(path), **found}
    file = RunDir(path).weights if path.is_dir() else path
    return {"path": str(file), **_describe(read_header(file))}


def _animation_text(path: Path) -> str | None:
    try:
        return animation_text(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not an animation that can be read", "GIF and MP4 carry settings") from error


def _describe(header: Header) -> dict[str, Any]:
    found = header.document.get("config")
    config = dict(found) if isinstance(found, dict) else {}
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
        "parameters": sum(math.prod(info.shape) for info in header.tensors.values()),
        "bytes": header.size,
        "hash": weights_hash(header) or None,
        "thumbnail": "modelspec.thumbnail" in header.metadata,
        "settings": config,
        "provenance": header.document.get("provenance", {}),
    }


def list_models() -> dict[str, Any]:
    """Families with their presets, shipped weights, and the runs below ./runs."""
    families = {family: {name: describe(family, name) for name in presets(family)} for family in FAMILIES}
    runs = {str(folder): RunDir(folder).weights for folder in sorted(Path("runs").glob("*")) if folder.is_dir()}
    return {
        "families": families,
        "shipped": [_line(name, path) for name, path in shipped_weights().items() if name != "features"],
        "runs": [_line(name, path) for name, path in runs.items() if path.exists()],
    }


def _line(name: str, path: Path) -> dict[str, Any]:
    try:
        found = _describe(read_header(path))
    except CheckpointError as error:
        return {"name": name, "path": str(path), "damaged": error.message}
    keys = ("family", "preset", "size", "channels", "hash", "bytes")
    return {"name": name, **{key: found[key] for key in keys}, "classes": len(found["classes"]), "path": str(path)}
