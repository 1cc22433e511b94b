"""Imports run downwards only: cli → engine → models, metrics, data, io → documents, errors, option, reporting."""

import ast
from pathlib import Path

import pytest

import imggen
from imggen.models import FAMILIES

PACKAGE = Path(imggen.__file__).parent
BASE = ("imggen", "imggen.documents", "imggen.errors", "imggen.option", "imggen.reporting")
SHARED = (
    "adversarial",
    "augment",
    "base",
    "batch_norm",
    "config",
    "efficientnet",
    "global_batch",
    "hard_alpha",
    "heads",
    "learner",
    "muon",
    "patch_gan",
    "random_masks",
    "training",
)
FAMILY = tuple(f"imggen.models.{name}" for name in SHARED)
# `explore` is not among them: it is a page over these verbs, may use them all, and none uses it.
VERBS = (
    "cache",
    "training",
    "sampling",
    "direction_sheet",
    "interpolation",
    "inpainting",
    "evaluation",
    "recognition",
    "mapping",
)
ACROSS = {("training", "imggen.engine.evaluation.samples")}
ALLOWED: dict[str, tuple[str, ...]] = {
    "cli": ("imggen.cli", "imggen.engine", "imggen.models", "imggen.io"),
    "engine": ("imggen.engine", "imggen.metrics", "imggen.models", "imggen.data", "imggen.io"),
    "metrics": ("imggen.metrics", "imggen.io", "imggen.models.efficientnet"),
    "models": ("imggen.models",),
    "data": ("imggen.data", "imggen.io"),
    "io": ("imggen.io",),
}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            submodules = {
                a.name for a in node.names if (PACKAGE.parent / module.replace(".", "/") / f"{a.name}.py").exists()
            }
            found |= {f"{module}.{name}" for name in submodules} or {module}
    return {name for name in found if name.split(".")[0] == "imggen"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return
    layer = parts[0]
    allowed = ALLOWED[layer]
    if layer == "models" and parts[1] in FAMILIES:
        allowed = (*FAMILY, f"imggen.models.{parts[1]}")
    for name in imports_of(path):
        assert name in BASE or any(name == good or name.startswith(good + ".") for good in allowed), name


@pytest.mark.parametrize("verb", VERBS)
def test_verb_packages_stand_apart(verb: str) -> None:
    others = [f"imggen.engine.{other}" for other in (*VERBS, "explore") if other != verb]
    for path in sorted((PACKAGE / "engine" / verb).rglob("*.py")):
        for name in imports_of(path):
            if (verb, name) not in ACROSS:
                assert not any(name == other or name.startswith(other + ".") for other in others), f"{path}: {name}"


def test_no_file_is_long() -> None:
    files = [*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert not {path: length for path, length in lengths.items() if length > 400}
