"""An empty value, such as an unset variable of a shell gives, is an error and never stands for the current folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from imggen.cli.build import read_config
from imggen.engine.options import TrainOptions
from imggen.errors import UsageError
from imggen.option import options_of
from tests.cli.snapshot import OPTIONS, commands
from tests.helpers import run_cli

COMMANDS = commands()


def _parameters() -> list[tuple[str, Any]]:
    return [
        (name, each)
        for name, command in COMMANDS.items()
        for each in command.params
        if not getattr(each, "is_flag", False)
    ]


def test_every_option_is_walked() -> None:
    """Those of all dataclasses in engine/options and of the families, and --config."""
    walked = {(name, parameter.name) for name, parameter in _parameters()}
    for name, declaring in OPTIONS.items():
        assert (name, "config") in walked
        for dataclass in declaring:
            for item, option in options_of(dataclass).items():
                parameter = next((flag for flag in option.flags if not flag.startswith("-")), item.name)
                assert (name, parameter) in walked or item.type in ("bool", bool)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_value_is_refused(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Of every option and argument: from a flag, the environment and a --config file."""
    verb: Any = COMMANDS[command]
    prefix = "_".join(["IMGGEN", *command.upper().split()])
    context = verb.context_class(verb, info_name=command, auto_envvar_prefix=prefix)
    for parameter in (each for name, each in _parameters() if name == command):
        is_argument = parameter.param_type_name == "argument"
        name = parameter.metavar if is_argument else max(parameter.opts, key=len)
        before = ["x"] * [each.name for each in verb.params].index(parameter.name) if is_argument else []
        for words in [[*before, ""]] if is_argument else [*([flag, ""] for flag in parameter.opts), [f"{name}="]]:
            with pytest.raises(UsageError, match=f"^{name} is empty$"):
                verb.parse_args(context, words)
        with monkeypatch.context() as patch:
            patch.setenv(f"{prefix}_{parameter.name.upper()}", "")
            with pytest.raises(UsageError, match=f"^{name} is empty: so is the variable {prefix}_"):
                verb.parse_args(context, [])
        if parameter.name != "config":
            for value in ("", ["", "x"]):
                Path("c.toml").write_text(f"{parameter.name} = {json.dumps(value)}\n", encoding="utf-8")
                with pytest.raises(UsageError, match=f"'{parameter.name}' is empty"):
                    read_config(context, Path("c.toml"))


@pytest.mark.parametrize(
    "words",
    [
        ["train", "gan", "--data", "", "-o", ""],
        ["train", "vae", "--data", "x", "--output="],
        ["sample", ""],
        ["sample", "gan", "--near", ""],
        ["interpolate", "gan", "--from", "a", "--from", ""],
        ["inpaint", "gan", "--image", "", "--box", "1,1,2,2"],
        ["inpaint", "gan", "--image", "x", "--mask", ""],
        ["evaluate", "", "--data", "x"],
        ["info", ""],
        ["models", "--config", ""],
    ],
)
def test_an_empty_value_is_exit_code_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, err = run_cli(capsys, *words)
    assert (code, out) == (2, "") and " is empty\n" in err and "variable of the shell" in err
    assert not list(Path().iterdir())


def test_an_empty_value_in_python_is_refused() -> None:
    with pytest.raises(UsageError, match="--data is empty"):
        TrainOptions(family="gan", data="")
