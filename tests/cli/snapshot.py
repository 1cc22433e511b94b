"""Every parameter of every command, as text: what scripts that call imggen depend on.

test_commands.py compares it with commands.json. After a change that is meant, write the file again:

    python tests/cli/snapshot.py > tests/cli/commands.json
"""

import json
import sys
from typing import Any

import typer

from imggen.cli.app import app
from imggen.engine import options
from imggen.models import TRAINED, family_config
from imggen.option import REQUIRED, options_of

OPTIONS: dict[str, list[Any]] = {
    "sample": [options.SampleOptions],
    "directions": [options.DirectionsOptions],
    "interpolate": [options.InterpolateOptions],
    "inpaint": [options.InpaintOptions],
    "stylize": [options.StylizeOptions],
    "embed": [options.EmbedOptions],
    "search": [options.SearchOptions],
    "classify": [options.ClassifyOptions],
    "translate": [options.TranslateOptions],
    "segment": [options.SegmentOptions],
    "evaluate": [options.EvaluateOptions],
    "explore": [options.ExploreOptions],
    "export": [options.ExportOptions],
    "info": [options.InfoOptions],
    "models": [],
    "cache": [options.CacheOptions],
    **{f"train {family}": [options.train_options(family), family_config(family)] for family in TRAINED},
}


def commands() -> dict[str, Any]:
    """Every command by the words that name it."""
    verbs: Any = typer.main.get_command(app)
    families = verbs.make("train")
    return {
        **{name: verbs.make(name) for name in verbs.summaries if name != "train"},
        **{f"train {name}": families.make(name) for name in families.summaries},
    }


def command_line() -> dict[str, dict[str, dict[str, Any]]]:
    """Command → parameter → its flags, type, environment name, default, range and choices."""
    return {name: _parameters(name, command) for name, command in sorted(commands().items())}


def _parameters(name: str, command: Any) -> dict[str, dict[str, Any]]:
    declared = {}
    for declaring in OPTIONS[name]:
        for item, option in options_of(declaring).items():
            declared[next((word for word in option.flags if not word.startswith("-")), item.name)] = (item, option)
    prefix = "_".join(["IMGGEN", *name.upper().split()])
    described = {}
    for parameter in command.params:
        argument = parameter.param_type_name == "argument"
        entry: dict[str, Any] = {
            "flags": [] if argument else [*parameter.opts, *parameter.secondary_opts],
            "type": _type_name(parameter.type_descriptor.annotation),
            "environment": parameter.envvar or f"{prefix}_{parameter.name.upper()}",
        }
        if parameter.required:
            entry["required"] = True
        if parameter.name in declared:
            item, option = declared[parameter.name]
            values = {"default": item.default, "low": option.low, "high": option.high, "choices": option.choices}
            entry |= {key: value for key, value in values.items() if value not in (None, ()) and value is not REQUIRED}
        described[parameter.name] = entry
    return described


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def snapshot() -> str:
    """`command_line` as JSON, one parameter a line."""
    blocks = []
    for name, parameters in command_line().items():
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(parameters.items())]
        blocks.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(snapshot())
