"""What every file records of how it was made, and the command that makes it again: both are read off the options."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import Field, replace
from pathlib import Path
from typing import Any

import imggen
from imggen.engine.checkpoints import LoadedModel
from imggen.engine.device import precision_name
from imggen.engine.options import ModelOptions, VerbOptions
from imggen.option import Option, flag_of, options_of

Recorded = tuple["Field[Any]", Option, Any]


def command(verb: str, options: VerbOptions, **resolved: Any) -> str:
    """The command line, quoted for a shell, whose result is that of `options`.

    It has every option that influences the result and differs from its default. `resolved` replaces values by what was
    used for the file at hand, such as its seeds and its output: these are always in the command, and None leaves an
    option out. A checkpoint of --weights takes MODEL's place.
    """
    recorded = list(_recorded(options, resolved))
    words = ["imggen", verb]
    words += [word for item, option, value in recorded if option.is_argument for word in _words(item, option, value)]
    # The output stands last, where a reader looks for it.
    flags = sorted(
        (entry for entry in recorded if not entry[1].is_argument), key=lambda entry: entry[0].name == "output"
    )
    words += [word for entry in flags for word in _words(*entry)]
    return shlex.join(words)


def settings(verb: str, options: VerbOptions, loaded: LoadedModel | None, **resolved: Any) -> dict[str, Any]:
    """What a file records, ready for JSON: the version, the model, the options, and the command that makes it again.

    Options are recorded as in the command, `resolved` among them, by the names of their flags with underscores;
    temperature and precision always are. `loaded` is None where no model was used.
    """
    document: dict[str, Any] = {"imggen": imggen.__version__, "verb": verb}
    if loaded is None:
        resolved["model"] = None
    else:
        document |= {"model": _model_of(options), "hash": loaded.hash}
    for item, option, value in _recorded(options, {**resolved, "output": None, "model": None}):
        document[flag_of(item)[2:].replace("-", "_")] = _json_value(item, option, value)
    if loaded is not None and isinstance(options, ModelOptions):
        document |= {"temperature": options.temperature, "precision": precision_name(loaded.dtype)}
    return {**document, "command": command(verb, options, **resolved)}


def settings_of_files(
    verb: str, options: VerbOptions, loaded: LoadedModel | None, *varying: str, **resolved: Any
) -> Callable[..., dict[str, Any]]:
    """A function that returns the `settings` of one of many files; its arguments are the options `varying`, as texts.

    It takes microseconds, for thousands of files: `settings` is called once, with placeholders for these options.
    """
    marks = {name: f"\0{name}" for name in varying}  # no word of a command line has a NUL
    document = settings(verb, options, loaded, **resolved, **marks)
    names = {key: name for key, value in document.items() for name, mark in marks.items() if value == mark}
    template = document.pop("command").replace("%", "%%")
    for name, mark in marks.items():
        template = template.replace(shlex.quote(mark), f"%({name})s")

    def settings_of_file(**values: str) -> dict[str, Any]:
        own = {key: values[name] for key, name in names.items()}
        quoted = {name: shlex.quote(value) for name, value in values.items()}
        return {**document, **own, "command": template % quoted}

    return settings_of_file


def _recorded(options: VerbOptions, resolved: dict[str, Any]) -> Iterator[Recorded]:
    """The options that a file records, and their values.

    These are `resolved`, except for None, and of the others what influences the result and differs from the default.
    """
    for item, option in options_of(options).items():
        if not option.recorded or item.name == "weights":
            continue
        value = getattr(options, item.name)
        default = item.default
        if item.name in resolved:
            value, default = resolved[item.name], None
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
        return [flag] if value else []
    return [word for part in (value if _is_repeated(item) else (value,)) for word in (flag, option.text(part))]


def _json_value(item: Field[Any], option: Option, value: Any) -> Any:
    if _is_repeated(item):
        return [option.text(part) for part in value]
    return option.text(value) if isinstance(value, Path | tuple) else value
