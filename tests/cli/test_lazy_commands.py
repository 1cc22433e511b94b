"""Verbs are imported and made when they are used, so that the program's help is quick."""

import subprocess
import sys
from typing import Any

import typer

from imggen.cli.app import app
from tests.cli.snapshot import commands


def test_the_summary_of_a_command_begins_its_help() -> None:
    """The program's help has it without importing the command."""
    made = commands()
    verbs: Any = typer.main.get_command(app)
    families = verbs.make("train")
    summaries = verbs.summaries | {f"train {name}": text for name, text in families.summaries.items()}
    assert summaries.pop("train") == families.help
    assert summaries == {name: (command.help or "").splitlines()[0] for name, command in made.items()}


def test_the_programs_help_imports_no_verb() -> None:
    code = (
        "import sys\nfrom imggen.cli.app import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        "    print([name for name in sys.modules if name.startswith(('imggen.engine', 'imggen.models', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_markdown_is_imported_only_to_be_rendered() -> None:
    """`imggen --help` is quicker without rich.markdown; whoever renders Markdown in the same process still can."""
    code = (
        "import sys, imggen.cli.commands\n"
        "from rich.markdown import Markdown\n"
        "from rich.traceback import Traceback\n"
        "assert 'markdown_it' not in sys.modules and 'pygments' not in sys.modules\n"
        "from rich.traceback import install\n"
        "assert 'pygments' in sys.modules\n"
        "from rich.console import Console\n"
        "Console(width=20).print(Markdown('*word*'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "word"
