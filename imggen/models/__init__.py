"""The registry of model families: one folder and one line each.

Nothing here imports torch, so that the command line may list families; a family's networks are imported when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from imggen.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imggen.models.base import Backend
    from imggen.models.config import ModelConfig
    from imggen.models.learner import Learner


class Family(NamedTuple):
    """The package of a family, and what the family is good for, in one line of help."""

    package: str
    summary: str


REGISTRY = {
    "gan": Family("imggen.models.gan", "Sharpest images, fast to sample; no likelihood, inpaints by a slow search"),
    "transformer": Family(
        "imggen.models.transformer", "Varied images, with a likelihood; samples in steps, inpaints photographs best"
    ),
    "vae": Family("imggen.models.vae", "Best likelihood, fast to sample; inpaints thin masks best; softer images"),
}
FAMILIES = tuple(REGISTRY)


def family_config(family: str) -> type[ModelConfig]:
    """The configuration dataclass of a family; its fields made by `option` are the user's options."""
    return _import(family, "config", f"{family.capitalize()}Config")


def presets(family: str) -> Mapping[str, ModelConfig]:
    """The presets of a family by name."""
    return _import(family, "config", "PRESETS")


def describe(family: str, preset: str) -> str:
    """One line on what a preset is for."""
    return _import(family, "config", "DESCRIPTIONS")[preset]


def describe_family(family: str) -> str:
    """One line on what a family is good for."""
    return REGISTRY[family].summary


def build_backend(config: ModelConfig) -> Backend:
    """A backend with fresh weights (on the current default device; "meta" allocates nothing)."""
    return _import(config.family, "backend", f"{config.family.capitalize()}Backend")(config)


def build_learner(config: ModelConfig) -> Learner:
    """A learner with fresh weights and optimizers, on the CPU."""
    return _import(config.family, "learner", f"{config.family.capitalize()}Learner")(config)


def _import(family: str, module: str, name: str) -> Any:
    """An object of one of a family's modules. Raises UsageError for an unknown family."""
    if family not in REGISTRY:
        raise UsageError(f"there is no family '{family}'", f"families: {', '.join(FAMILIES)}")
    return getattr(import_module(f"{REGISTRY[family].package}.{module}"), name)
