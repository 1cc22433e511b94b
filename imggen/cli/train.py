"""imggen train FAMILY: one sub-command a family, its options read off its configuration."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from imggen.cli.commands import Command, Group
from imggen.cli.console import Console
from imggen.cli.invocation import typed_command
from imggen.cli.options import MACHINE, Batch, Device, DryRun, Force, with_parameters
from imggen.errors import UsageError
from imggen.models import FAMILIES, describe, family_config, presets

DATA, BUDGET, RUN = "Data", "Budget", "Run"
UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def parse_count(text: str) -> int:
    """2M, 500k, 1e6 or 12000 → a whole number. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d{1,2})?)([kmg]?)", text.strip().lower().replace("_", ""))
    if not found or float(found[1]) * UNITS[found[2]] > 1e15:
        raise UsageError(f"'{text}' is not a number of pictures", "such as 2M, 500k or 12000")
    return round(float(found[1]) * UNITS[found[2]])


def _option(kind: Any, panel: str, text: str, default: Any, *flags: str, **more: Any) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(*flags, help=text, rich_help_panel=panel, **more)], default


DATA_OPTIONS: dict[str, tuple[Any, Any]] = {
    "data": _option(
        str,
        DATA,
        "A folder, a .zip, a .tar, or mnist, cifar10, cifar100, imagenet:PATH.",
        inspect.Parameter.empty,
        "--data",
        metavar="SOURCE",
    ),
    "size": _option(int | None, DATA, "Side in pixels; chosen from the pictures.", None, min=1),
    "channels": _option(int | None, DATA, "1 grey, 3 colour, 4 with alpha; chosen from the pictures.", None),
    "crop": _option(str | None, DATA, "center, random or pad; center.", None, metavar="NAME"),
    "split": _option(str | None, DATA, "train, val, test or all, where there are any; train.", None, metavar="NAME"),
    "no_classes": _option(bool, DATA, "Sub-folders are not classes.", False, "--no-classes"),
    "strict": _option(bool, DATA, "No unreadable picture is forgiven.", False, "--strict"),
    "mirror": _option(bool, DATA, "Also learn from mirrored pictures.", False, "--mirror"),
}
RUN_OPTIONS: dict[str, tuple[Any, Any]] = {
    "images": _option(str | None, BUDGET, "Pictures to see, such as 2M.", None, metavar="N"),
    "epochs": _option(float | None, BUDGET, "Times through the data.", None),
    "minutes": _option(float | None, BUDGET, "Minutes of training.", None),
    "output": _option(Path | None, RUN, "The run's folder; runs/FAMILY.", None, "--output", "-o", metavar="FOLDER"),
    "resume": _option(bool, RUN, "Go on where the run stopped.", False, "--resume"),
    "seed": _option(int | None, RUN, "Drawn and printed when not given.", None, min=0, max=2**63 - 1),
    "save_minutes": _option(float, RUN, "Preview and checkpoint this often.", 2.0, min=0.0),
    "evaluate_every": _option(
        float | None, RUN, "Minutes between distances to the data; the best checkpoint is kept.", None, min=0.0
    ),
    "tensorboard": _option(bool, RUN, "Write its logs too (extra: log).", False, "--tensorboard"),
    "batch": (Batch, None),
    "device": (Device, "auto"),
    "precision": _option(str, MACHINE, "auto, fp32 or bf16.", "auto", "--precision", metavar="NAME"),
    "force": (Force, False),
    "dry_run": (DryRun, False),
}


def family_options(family: str) -> dict[str, tuple[Any, Any]]:
    """The options that a family's configuration declares; none given means the preset's."""
    found = {}
    for item in fields(family_config(family)):
        if "help" not in item.metadata or item.default is MISSING:
            continue
        kind = type(item.default)
        flag = "--" + item.name.replace("_", "-")
        flags = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
        note = typer.Option(
            *flags,
            help=item.metadata["help"][0].upper() + item.metadata["help"][1:] + ".",
            rich_help_panel=item.metadata["panel"],
            show_default=False,
            min=item.metadata["low"],
            max=item.metadata["high"],
        )
        found[item.name] = (Annotated[kind | None, note], None)
    return found


def _command(family: str) -> Any:
    own = family_options(family)
    names = ", ".join(presets(family))
    preset = typer.Option(help=f"One of {names}; chosen from the device.", rich_help_panel="Model", metavar="NAME")
    options = {**DATA_OPTIONS, "preset": (Annotated[str | None, preset], None), **own, **RUN_OPTIONS}

    def train(console: Console, **values: Any) -> None:
        run(family, console, values, list(own))

    train.__doc__ = "\n\n".join(
        [
            f"Train a {family} on a folder of pictures.",
            f"Example: imggen train {family} --data ./imgs",
            f"Example: imggen train {family} --data pictures.zip --minutes 30 --size 64 -o runs/cats",
            f"Example: imggen train {family} --data ./imgs --resume",
            "Presets: " + "; ".join(f"{name}: {describe(family, name)}" for name in presets(family)) + ".",
        ]
    )
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]
    return with_parameters(train, parameters)


def run(family: str, console: Console, values: dict[str, Any], own: list[str]) -> None:
    """Hand the options to the engine. Everything that can be refused without torch is refused first."""
    from imggen.engine import training
    from imggen.engine.options import TrainOptions

    overrides = {name: value for name in own if (value := values.pop(name)) is not None}
    dry_run = values.pop("dry_run")
    if values["preset"] is not None and values["preset"] not in presets(family):
        raise UsageError(f"{family} has no preset '{values['preset']}'", f"presets: {', '.join(presets(family))}")
    images = values.pop("images")
    options = TrainOptions(
        family=family,
        overrides=overrides,
        use_classes=not values.pop("no_classes"),
        images=None if images is None else parse_count(str(images)),
        command=typed_command(),
        **values,
    )
    if dry_run:
        plan = training.dry_run(options, console)
        console.result(plan, [f"{name:14} {value}" for name, value in plan.items()])
        return
    result = training.run(options, console)
    console.result(result, [result["weights"]])


app = typer.Typer(cls=Group, help="Train a model on a folder of pictures.", no_args_is_help=True)
for _family in FAMILIES:
    app.command(_family, cls=Command)(_command(_family))
