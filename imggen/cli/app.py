"""The Typer app, and main(): every way in which a command can end, with its exit code."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Annotated, Any, ClassVar, NoReturn

import typer

import imggen
from imggen.cli.commands import Group, command_of
from imggen.cli.console import Console, accept_all_characters, escaped, open_closed_streams
from imggen.cli.invocation import Invocation
from imggen.errors import DataError, DeviceError, ImggenError, InterruptedRun, UsageError, first_line
from imggen.io.atomic import disk_hint

BROKEN_PIPE_CODE = 141  # 128 + SIGPIPE, as a shell reports it


class Verbs(Group):
    """The verbs, in the order of their use: each a function of its name, in a module of its name."""

    summaries: ClassVar = {
        "train": "Train a model on a folder of images.",
        "sample": "Generate images, or reconstruct or vary given ones.",
        "directions": "List what a model's noise changes, for sample --direction.",
        "interpolate": "Animate a path between seeds, or between images.",
        "inpaint": "Fill masked regions of images; all else stays unchanged.",
        "stylize": "Draw images in the style of others; needs no trained model.",
        "translate": "Turn images into those of another kind by a model.",
        "embed": "Turn images into vectors, to compare them by.",
        "search": "Find similar images, or duplicates, by what a model sees.",
        "classify": "Label images by the classes of a model.",
        "segment": "Label every pixel of images by the classes of a model.",
        "evaluate": "Compare images with real ones, or labels with the truth.",
        "explore": "Open a page to play with a model, or to watch a run.",
        "export": "Write a model's network as a file for other programs.",
        "info": "Print how an image was made, or what a checkpoint holds.",
        "models": "List families, presets, shipped models and your runs.",
        "cache": "List or clear the images that are kept decoded.",
    }

    def make(self, name: str) -> Any:
        """The verb's command; of `train`, the group of its families."""
        module = import_module(f"imggen.cli.{name}")
        return typer.main.get_command(module.app) if name == "train" else command_of(name, getattr(module, name))


app = typer.Typer(
    name="imggen",
    cls=Verbs,
    help="Train a generative model on a folder of images, then sample, interpolate and inpaint with it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "IMGGEN"},
    epilog="Example: imggen train gan --data ./imgs\nExample: imggen sample gan -n 64 -o grid.png",
)


def _print_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"imggen {imggen.__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=_print_version,
            show_envvar=False,
            allow_from_autoenv=False,
        ),
    ] = False,
) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_closed_streams()
    accept_all_characters()
    Invocation.words, Invocation.is_interrupted, Invocation.console = tuple(arguments), False, Console()
    signal.signal(signal.SIGTERM, _raise_on_sigterm)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as for a command that a script runs in the background
        signal.signal(signal.SIGINT, _raise_on_ctrl_c)
    try:
        # Typer's standalone mode would print boxes, and give Ctrl-C and errors exit codes of its own.
        code = app(args=arguments, prog_name="imggen", standalone_mode=False)
        if code == 128 + signal.SIGINT:
            raise KeyboardInterrupt  # Typer turns Ctrl-C into this code, without a message
        sys.stdout.flush()
    except BaseException as error:
        with _no_further_ctrl_c():
            code = _handle_error(error, arguments)
    code = code if isinstance(code, int) else 0
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Threads of the process group may outlive it; one that wakes while Python is shutting down aborts the process,
        # and torchrun then stops the other processes and reports a failure.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _raise_on_sigterm(number: int, frame: FrameType | None) -> None:
    raise InterruptedRun("stopped by SIGTERM", None, 128 + number)


def _raise_on_ctrl_c(number: int, frame: FrameType | None) -> None:
    # A library that is being imported, or written in C, may turn this exception into another one.
    Invocation.is_interrupted = True
    raise KeyboardInterrupt


@contextmanager
def _no_further_ctrl_c() -> Iterator[None]:
    """Let an error be reported to the end."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _handle_error(error: BaseException, arguments: list[str]) -> int:
    """Print an error as one line and a hint; returns the exit code."""
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        # The reader of stdout has closed it (Typer turns that into a SystemExit).
        _discard_stdout()
        return BROKEN_PIPE_CODE
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, typer.TyperException) and not error.format_message():
        return error.exit_code  # `imggen` or `imggen train` alone: Typer has printed the help in place of a message
    console = Invocation.console
    if console.debug or "--debug" in arguments or os.environ.get("IMGGEN_DEBUG"):
        text = "".join(traceback.format_exception(error))
        sys.stderr.write("".join(f"{escaped(line)}\n" for line in text.split("\n")))
    reported = _as_imggen_error(error, arguments)
    console.error(reported)
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()
    return reported.exit_code


def _discard_stdout() -> None:
    """Send the rest of stdout to the null device, so that the flush at exit cannot fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_imggen_error(error: BaseException, arguments: list[str]) -> ImggenError:
    """The error that is shown, with its hint and exit code, for any exception."""
    if isinstance(error, ImggenError):
        return error
    if isinstance(error, typer.TyperException):
        # Typer may break its message over several lines.
        message = " ".join(error.format_message().split())
        return UsageError(
            message, f"see '{' '.join(['imggen', *_command_words(arguments), '--help'])}'", error.exit_code
        )
    if isinstance(error, KeyboardInterrupt | typer.Abort) or Invocation.is_interrupted:
        return InterruptedRun("stopped by Ctrl-C", "files that were written are complete")
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
        return DeviceError("not enough memory", "use a smaller --batch")
    if isinstance(error, OSError):
        return DataError(first_line(error), disk_hint(error) or "--debug prints the traceback")
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:  # of a name that is not Unicode
        return DataError(f"a name cannot be written: {first_line(error)}", "use plain names")
    message = f"internal: {type(error).__name__}: {first_line(error)}"
    return ImggenError(message, "this is a bug in imggen; --debug prints the traceback")


def _command_words(arguments: list[str]) -> list[str]:
    """The verb, and the family of `train`, if the command line begins with them."""
    from imggen.models import TRAINED

    words = [word for word in arguments[:1] if word in Verbs.summaries]
    return words + [word for word in arguments[1:2] if words == ["train"] and word in TRAINED]
