"""What every file records of how it was made, and the command that makes it again: both are read off the options."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import Field, replace
from pathlib import Path
from typing import Any

import torch

import imggen
from imggen.engine.checkpoints import LoadedModel
from imggen.engine.device import precision_name
from imggen.engine.options import ModelOptions, SampleOptions
from imggen.option import Option, flag_of, options_of

Recorded = tuple["Field[Any]", Option, Any]


def command(verb: str, options: ModelOptions, **changes: Any) -> str:
    """The command line, quoted for a shell, whose result is that of `options`.

    It has every option that influences the result and differs from its default. `changes` replace values, such as the
    seeds or the output of the file at hand; None leaves an option out. A checkpoint of --weights takes MODEL's place.
    """
    recorded = list(_recorded(options, changes))
    words = ["imggen", verb]
    words += [word for item, option, value in recorded if option.is_argument for word in _words(item, option, value)]
    # The output stands last, where a reader looks for it.
    flags = sorted(
        (entry for entry in recorded if not entry[1].is_argument), key=lambda entry: entry[0].name == "output"
    )
    words += [word for entry in flags for word in _words(*entry)]
    return shlex.join(words)


def settings(verb: str, options: ModelOptions, loaded: LoadedModel | None, **extra: Any) -> dict[str, Any]:
    """What a file records, ready for JSON: the version, the model, and every option that differs from its default.

    Options have the names of their flags with underscores; temperature and precision are always recorded. `loaded` is
    None where no model was used. `extra` is added last, and None there removes a setting.
    """
    document: dict[str, Any] = {"imggen": imggen.__version__, "verb": verb}
    model = {}
    if loaded is not None:
        document |= {"model": _model_of(options), "hash": loaded.hash}
        model = {"temperature": options.temperature, "precision": precision_name(loaded.dtype)}
    for item, option, value in _recorded(options, {"output": None, "model": None}):
        document[flag_of(item)[2:].replace("-", "_")] = _json_value(item, option, value)
    return {name: value for name, value in (document | model | extra).items() if value is not None}


def _recorded(options: ModelOptions, changes: dict[str, Any]) -> Iterator[Recorded]:
    """The options that a file records, and their values: what influences the result and differs from the default."""
    for item, option in options_of(options).items():
        if not option.recorded or item.name == "weights":
            continue
        value = getattr(options, item.name)
        default = item.default
        if item.name in changes:
            value = changes[item.name]
        elif item.name == "model":
            value = _model_of(options)
        elif default is None and value is not None:
            # A default that depends on other options is set when the dataclass is made.
            unset: dict[str, Any] = {item.name: None}
            default = getattr(replace(options, **unset), item.name)
        if value is not None and value != default:
            yield item, option, value


def _model_of(options: Any) -> str | None:
    """The model's name, or the path of the checkpoint that was given in its place."""
    return options.model if options.weights is None else str(options.weights)


def _is_repeated(item: Field[Any]) -> bool:
    """Whether the option is given once for each of its values."""
    return item.default == ()


def _words(item: Field[Any], option: Option, value: Any) -> list[str]:
    if option.is_argument:
        return [option.text(value)]
    flag = next((word for word in option.flags if word.startswith("-") and len(word) == 2), flag_of(item))
    if isinstance(value, bool):
        return [flag]
    return [word for part in (value if _is_repeated(item) else (value,)) for word in (flag, option.text(part))]


def _json_value(item: Field[Any], option: Option, value: Any) -> Any:
    if _is_repeated(item):
        return [option.text(part) for part in value]
    return option.text(value) if isinstance(value, Path | tuple) else value


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
