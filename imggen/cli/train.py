"""imggen train FAMILY: one sub-command for each family, with the options of its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import typer

from imggen.cli.build import value_text, verb
from imggen.cli.commands import Group, command_of
from imggen.cli.console import Console
from imggen.cli.invocation import Invocation
from imggen.engine.options import train_options
from imggen.models import TRAINED, describe, describe_family, family_config, presets
from imggen.option import options_of

LONGEST_DEFAULT = 32  # characters in the help
LARGE_SIZE = 64  # pixels, for which help shows another default where `for_size` has one
# How examples name the data: a folder, and what is the same of every example.
SOURCES = {"segment": ("--data ./imgs", " --masks ./masks"), "translate": ("--from ./a", " --to ./b")}
# Families of which --features pretrained, for photographs, is an example.
WITH_PRETRAINED = ("classify", "segment")


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

    data, more = SOURCES.get(family, ("--data ./imgs", ""))
    archive = f"{data.split()[0]} images.zip"
    examples = [
        f"Example: imggen train {family} {data}{more}",
        f"Example: imggen train {family} {archive}{more} --minutes 30 --size 64 -o runs/cats",
        f"Example: imggen train {family} {data}{more} --resume",
    ]
    if family in WITH_PRETRAINED:
        examples.append(f"Example: imggen train {family} {data}{more} --features pretrained")
    lines = [f"Preset {name}: {describe(family, name)}" for name in presets(family)]
    train.__doc__ = "\n\n".join([describe_family(family), "\n".join(examples), "\n".join(lines)])
    return train


def _family_defaults(family: str) -> dict[str, str]:
    """What help shows as the default of each option: the value of `tiny`, and those of large images and `base`."""
    defaults = {}
    tiny, base = presets(family)["tiny"], presets(family)["base"]
    large = tiny.with_overrides(**tiny.for_size(LARGE_SIZE))
    for item, option in options_of(tiny).items():
        values = [getattr(preset, item.name) for preset in (tiny, large, base)]
        texts = [("off", "on")[value] if isinstance(value, bool) else value_text(option, value) for value in values]
        shown = texts[0] if texts[0] == texts[1] else f"{texts[0]}; {LARGE_SIZE} px: {texts[1]}"
        shown += "" if texts[0] == texts[2] else f"; base {texts[2]}"
        defaults[item.name] = shown if len(shown) <= LONGEST_DEFAULT else "by preset"
    return defaults


class Families(Group):
    """What can be trained, in the order of the registry."""

    summaries: ClassVar = {family: describe_family(family) for family in TRAINED}

    def make(self, name: str) -> Any:
        """The command that trains a model of a family."""
        return command_of(name, _command(name))


app = typer.Typer(cls=Families, no_args_is_help=True, add_completion=False)


@app.callback()
def train() -> None:
    """Train a model on a folder of images."""
