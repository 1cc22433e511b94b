"""The families: one folder and one line each.

Nothing here imports torch, so the command line may ask what there is; a family's networks are
imported when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from imggen.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imggen.models.base import Backend, Learner
    from imggen.models.config import ModelConfig

REGISTRY = {
    "gan": "imggen.models.gan",
    "transformer": "imggen.models.transformer",
    "vae": "imggen.models.vae",
}
FAMILIES = tuple(REGISTRY)


def _part(family: str, module: str, name: str) -> Any:
    if family not in REGISTRY:
        raise UsageError(f"there is no family called '{family}'", f"families: {', '.join(FAMILIES)}")
    return getattr(import_module(f"{REGISTRY[family]}.{module}"), name)


def family_config(family: str) -> type[ModelConfig]:
    """The configuration dataclass of a family; its fields with a help text are the user's options."""
    config: type[ModelConfig] = _part(family, "config", f"{family.capitalize()}Config")
    return config


def presets(family: str) -> Mapping[str, ModelConfig]:
    """The presets of a family by name."""
    found: Mapping[str, ModelConfig] = _part(family, "config", "PRESETS")
    return found


def describe(family: str, preset: str) -> str:
    """One line that says what a preset is for."""
    lines: Mapping[str, str] = _part(family, "config", "DESCRIPTIONS")
    return lines[preset]


def build_backend(config: ModelConfig) -> Backend:
    """A backend with fresh weights (on the current default device; "meta" costs nothing)."""
    backend: Backend = _part(config.family, "backend", f"{config.family.capitalize()}Backend")(config)
    return backend


def build_learner(config: ModelConfig) -> Learner:
    """A learner with fresh weights and optimisers, on the CPU."""
    learner: Learner = _part(config.family, "learner", f"{config.family.capitalize()}Learner")(config)
    return learner
