"""An empty value, such as an unset variable of a shell gives, is an error and never stands for the current folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from imggen.cli.app import app
from imggen.option import options_of
from tests.cli.snapshot import OPTIONS
from tests.helpers import run_cli

GROUP: Any = typer.main.get_command(app)
COMMANDS = {name: GROUP.commands[name] for name in GROUP.commands if name != "train"}
COMMANDS |= {f"train {name}": command for name, command in GROUP.commands["train"].commands.items()}
# What a command line needs besides the option at hand; nothing of it exists.
NEEDED = {"model": ["gan"], "path": ["x.png"], "data": ["--data", "x"], "image": ["--image", "x"]}


def _words(command: str, parameter: Any) -> list[str]:
    """The command, and whatever else it needs."""
    others = [other for other in COMMANDS[command].params if other.required and other.name != parameter.name]
    return [*command.split(), *(word for other in others for word in NEEDED[other.name])]


def _parameters() -> list[tuple[str, Any]]:
    return [
        (name, each)
        for name, command in COMMANDS.items()
        for each in command.params
        if not getattr(each, "is_flag", False)
    ]


def test_every_option_is_walked() -> None:
    """Those of all dataclasses in engine/options.py and of the families, and --config."""
    walked = {(name, parameter.name) for name, parameter in _parameters()}
    for name, declaring in OPTIONS.items():
        assert (name, "config") in walked
        for dataclass in declaring:
            for item, option in options_of(dataclass).items():
                parameter = next((flag for flag in option.flags if not flag.startswith("-")), item.name)
                assert (name, parameter) in walked or item.type in ("bool", bool)


@pytest.mark.parametrize(("command", "parameter"), _parameters(), ids=lambda each: getattr(each, "name", each))
def test_an_empty_value_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, parameter: Any
) -> None:
    """From a flag, the environment and a --config file; nothing is read or written."""
    words = _words(command, parameter)
    is_argument = parameter.param_type_name == "argument"
    name = parameter.metavar if is_argument else max(parameter.opts, key=len)
    flags = [[""]] if is_argument else [[flag, ""] for flag in parameter.opts]
    flags += [] if is_argument else [[f"{name}="]]
    for given in flags:
        code, out, err = run_cli(capsys, *words, *given)
        assert (code, out) == (2, "") and f"error: {name} is empty\n" in err
    with monkeypatch.context() as patch:
        patch.setenv("_".join(["IMGGEN", *command.upper().split(), parameter.name.upper()]), "")
        code, out, err = run_cli(capsys, *words)
        assert (code, out) == (2, "") and f"error: {name} is empty: so is the variable IMGGEN_" in err
    if parameter.name != "config":
        for value in ("", ["", "x"]):
            Path("c.toml").write_text(f"{parameter.name} = {json.dumps(value)}\n", encoding="utf-8")
            code, out, err = run_cli(capsys, *words, "--config", "c.toml")
            assert (code, out) == (2, "") and f"'{parameter.name}' is empty" in err
        Path("c.toml").unlink()
    assert not list(Path().iterdir())


def test_an_empty_value_in_python_is_refused() -> None:
    from imggen.engine.options import TrainOptions
    from imggen.errors import UsageError

    with pytest.raises(UsageError, match="--data is empty"):
        TrainOptions(family="gan", data="")
