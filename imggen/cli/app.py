"""The Typer app, global options, and main(): every way to end, with its exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

import imggen
from imggen.cli import train
from imggen.cli.commands import Command, Group
from imggen.cli.evaluate import evaluate
from imggen.cli.info import info, models
from imggen.cli.inpaint import inpaint
from imggen.cli.interpolate import interpolate
from imggen.cli.invocation import remember
from imggen.cli.options import Current
from imggen.cli.sample import sample
from imggen.errors import DataError, DeviceError, ImggenError, InterruptedRun, UsageError
from imggen.models import FAMILIES

app = typer.Typer(
    name="imggen",
    cls=Group,
    help="Turn a folder of pictures into a model; then draw from it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "IMGGEN"},
    epilog="Example: imggen train gan --data ./imgs, then: imggen sample gan -n 64 -o grid.png",
)
VERBS = ("train", "sample", "interpolate", "inpaint", "evaluate", "info", "models")
app.add_typer(train.app, name="train")
for _verb in (sample, interpolate, inpaint, evaluate, info, models):
    app.command(cls=Command)(_verb)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"imggen {imggen.__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            is_eager=True,
            callback=_version,
            show_envvar=False,
            allow_from_autoenv=False,
        ),
    ] = False,
) -> None:
    pass


def _terminate(number: int, frame: FrameType | None) -> None:
    raise InterruptedRun("stopped by SIGTERM", None, 128 + number)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files are bytes, and come out as they went in
    remember(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Typer's own handling would print boxes, and give Ctrl-C and errors codes of its own.
        code = app(args=arguments, prog_name="imggen", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:
        code = _ended(error, arguments)
    code = code if isinstance(code, int) else 0
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Threads of the process group may outlive it; one that wakes while Python is being taken down aborts the
        # process, and torchrun then stops the others and calls the run failed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _ended(error: BaseException, arguments: list[str]) -> int:
    """Say what went wrong, in a line and a hint; returns the exit code."""
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        # Whoever read us went away (Typer makes a SystemExit of it); flushing again at exit must not complain.
        _hush()
        return 141
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    console = Current.console
    if console.debug or "--debug" in arguments or os.environ.get("IMGGEN_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    told = _told(error, arguments)
    console.error(told)
    try:
        sys.stdout.flush()
    except OSError:
        _hush()  # flushing again at exit must not complain
    return told.exit_code


def _hush() -> None:
    """What is left to say on stdout goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(error: BaseException, arguments: list[str]) -> ImggenError:
    if isinstance(error, ImggenError):
        return error
    if isinstance(error, typer.TyperException):
        known = [word for word in arguments[:1] if word in VERBS]
        known += [word for word in arguments[1:2] if known == ["train"] and word in FAMILIES]
        # A usage error is one line here: Typer may break its own over several.
        line = " ".join(error.format_message().split()) or "something is missing"
        return UsageError(line, f"see '{' '.join(['imggen', *known, '--help'])}'", error.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return InterruptedRun("stopped by Ctrl-C")
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
        return DeviceError("not enough memory", "a smaller --batch")
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return DataError(
            f"{where}{error.strerror}", "free some space, or write elsewhere" if full else "--debug shows where"
        )
    return ImggenError(f"internal: {type(error).__name__}: {error}".splitlines()[0], "--debug shows where")
