"""What every file records of how it was made, and the command that makes it again."""

from __future__ import annotations

import shlex
from typing import Any

import torch

import imggen
from imggen.engine.checkpoints import LoadedModel
from imggen.engine.device import precision_name
from imggen.engine.options import SampleOptions


def settings_of(options: SampleOptions, loaded: LoadedModel, dtype: torch.dtype) -> dict[str, Any]:
    """What every file carries of how it was drawn."""
    document = {
        "imggen": imggen.__version__,
        "model": options.model if options.weights is None else str(options.weights),
        "hash": loaded.hash,
        "temperature": options.sampling.temperature,
        **options.sampling.changed(),
        "precision": precision_name(dtype),
    }
    return document if options.label is None else {**document, "class": options.label}


def command_of(settings: dict[str, Any], what: list[str], output: str, columns: int | None = None) -> str:
    """The command line that draws `what`, such as ["--seeds", "3"], with the settings that a file carries."""
    words = ["imggen", "sample", settings["model"], *what]
    if "class" in settings:
        words += ["--class", settings["class"]]
    if settings["temperature"] != 1.0:
        words += ["--temperature", str(settings["temperature"])]
    for name in ("steps", "guidance", "top_k", "top_p"):
        if name in settings:
            words += [f"--{name.replace('_', '-')}", str(settings[name])]
    if settings["precision"] != "fp32":
        words += ["--precision", settings["precision"]]
    words += ["--columns", str(columns)] if columns else []
    return shlex.join([*words, "-o", output])
