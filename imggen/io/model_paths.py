"""Where weights lie: given, of a run, or shipped."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from imggen.errors import CheckpointError

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder() -> Path | None:
    """`imggen/weights` of an installed wheel, else `weights` beside the package in a checkout."""
    for folder in (_PACKAGE / "weights", _PACKAGE.parent / "weights"):
        if folder.is_dir():
            return folder
    return None


def shipped_weights() -> dict[str, Path]:
    """The shipped models by name."""
    folder = shipped_folder()
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))} if folder else {}


def find_weights(
    model: str, *, weights: Path | None, families: Sequence[str], runs: Path = Path("runs")
) -> tuple[Path, str]:
    """The file that `model` (a family's name, a shipped model's name, a file or a run's folder) means, and why.

    Raises CheckpointError with the names that are near.
    """
    if weights is not None:
        return _of_path(weights), "given"
    own = runs / model / "weights.safetensors"
    named = Path(model).name == model != ".." and own.is_file()
    if named and (model in families or not holds_weights(Path(model))):
        return own, f"your run {own.parent}"
    shipped = shipped_weights()
    if model in shipped:
        return shipped[model], "shipped"
    if Path(model).exists():
        return _of_path(Path(model)), "given"
    known = sorted({*families, *shipped, *(path.parent.name for path in runs.glob("*/weights.safetensors"))})
    near = difflib.get_close_matches(model, known, 1)
    if near and near[0] != model:
        raise CheckpointError(f"there is no model '{model}'", f"did you mean '{near[0]}'?")
    train = model if model in families else families[0]
    raise CheckpointError(f"there is no model '{model}'", f"train one: imggen train {train} --data FOLDER")


def holds_weights(path: Path) -> bool:
    """Whether a path may be a checkpoint, or is a run's folder."""
    return path.is_file() or (path / "weights.safetensors").is_file()


def _of_path(path: Path) -> Path:
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}", "imggen models lists what there is")
    return path
