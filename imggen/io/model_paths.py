"""Find the checkpoint that a model's name or path stands for: a file, a run's folder, or a shipped model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imggen.errors import CheckpointError, nearest

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder() -> Path | None:
    """`imggen/weights` of an installed wheel, else `weights` beside the package in a checkout."""
    for folder in (_PACKAGE / "weights", _PACKAGE.parent / "weights"):
        if folder.is_dir():
            return folder
    return None


def shipped_weights() -> dict[str, Path]:
    """The paths of the shipped models, by name."""
    folder = shipped_folder()
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))} if folder else {}


def find_weights(
    model: str, *, weights: Path | None, families: Sequence[str], runs: Path = Path("runs")
) -> tuple[Path, str]:
    """The checkpoint for `model`, and its origin: "given", "your run …" or "shipped".

    `model` is the name of a run, a family or a shipped model, a file, or a run's folder; `weights`, if given, takes
    precedence. A run in `runs` precedes a shipped model, and a path precedes a run of the same name unless that is
    also a family's name. Raises CheckpointError, with the nearest name if there is one.
    """
    if weights is not None:
        return _checkpoint_file(weights), "given"
    run_weights = runs / model / "weights.safetensors"
    is_run = Path(model).name == model != ".." and run_weights.is_file()
    if is_run and (model in families or not holds_weights(Path(model))):
        return run_weights, f"your run {run_weights.parent}"
    shipped = shipped_weights()
    if model in shipped:
        return shipped[model], "shipped"
    if Path(model).exists():
        return _checkpoint_file(Path(model)), "given"
    names = sorted({*families, *shipped, *(path.parent.name for path in runs.glob("*/weights.safetensors"))})
    near = nearest(model, (name for name in names if name != model))
    if near is not None:
        raise CheckpointError(f"there is no model '{model}'", f"did you mean '{near}'?")
    family = model if model in families else families[0]
    raise CheckpointError(
        f"there is no model '{model}'", f"imggen models lists them; imggen train {family} --help says how to train one"
    )


def holds_weights(path: Path) -> bool:
    """Whether a path is a file, which may be a checkpoint, or a run's folder with weights."""
    return path.is_file() or (path / "weights.safetensors").is_file()


def _checkpoint_file(path: Path) -> Path:
    """The checkpoint at `path`, a file or a run's folder. Raises CheckpointError if there is none."""
    if path.is_dir():
        path = path / "weights.safetensors"
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}", "imggen models lists what there is")
    return path
