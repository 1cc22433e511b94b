"""imggen train FAMILY: one sub-command for each family, with the options of its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from imggen.cli.build import Command, Group, Invocation, value_text, verb
from imggen.cli.console import Console
from imggen.engine.options import train_options
from imggen.models import TRAINED, describe, describe_family, family_config, presets
from imggen.option import options_of

LONGEST_DEFAULT = 24  # characters in the help
TARGETS = {"segment": " --masks ./masks"}  # what examples name beside the data


def run(family: str, console: Console, *, dry_run: bool, **given: Any) -> None:
    """Train, or print the plan. Options of the family that are given override its preset's."""
    from imggen.engine import training

    own = {item.name for item in options_of(family_config(family))}
    overrides = {name: given.pop(name) for name in own & given.keys()}
    options = train_options(family)(family=family, overrides=overrides, command=Invocation.command(), **given)
    if dry_run:
        console.settings(training.dry_run(options, console))
        return
    result = training.run(options, console)
    console.result(result, [result["weights"]])


def _command(family: str) -> Callable[..., None]:
    @verb(train_options(family), family_config(family), _family_defaults(family))
    def train(console: Console, *, dry_run: bool, **given: Any) -> None:
        run(family, console, dry_run=dry_run, **given)

    more = TARGETS.get(family, "")
    examples = [
        f"Example: imggen train {family} --data ./imgs{more}",
        f"Example: imggen train {family} --data images.zip{more} --minutes 30 --size 64 -o runs/cats",
        f"Example: imggen train {family} --data ./imgs{more} --resume",
    ]
    lines = [f"Preset {name}: {describe(family, name)}" for name in presets(family)]
    train.__doc__ = "\n\n".join([describe_family(family), "\n".join(examples), "\n".join(lines)])
    return train


def _family_defaults(family: str) -> dict[str, str]:
    """What help shows as the default of each option: the value of `tiny`, and that of `base` where it differs."""
    defaults = {}
    tiny, base = presets(family)["tiny"], presets(family)["base"]
    for item, option in options_of(tiny).items():
        values = [getattr(preset, item.name) for preset in (tiny, base)]
        texts = [("off", "on")[value] if isinstance(value, bool) else value_text(option, value) for value in values]
        shown = texts[0] if texts[0] == texts[1] else f"{texts[0]}; base {texts[1]}"
        defaults[item.name] = shown if len(shown) <= LONGEST_DEFAULT else "by preset"
    return defaults


class Families(Group):
    """What can be trained, in the order of the registry."""

    order = TRAINED


app = typer.Typer(cls=Families, help="Train a model on a folder of images.", no_args_is_help=True)
for _family in TRAINED:
    app.command(_family, cls=Command)(_command(_family))
