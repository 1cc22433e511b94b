"""A training that is killed at a chosen moment, and resumed; `kill.py` does so at random moments for hours."""

import signal
from pathlib import Path

import pytest

from tests.cli.forks import Start
from tests.faults.runs import BATCH, differences, make_data, make_images, problems, read_state, train_words
from tests.helpers import run_cli

pytestmark = [pytest.mark.process, pytest.mark.slow]
STEPS = 4


@pytest.mark.usefixtures("few_pairs")
@pytest.mark.parametrize("family", ["gan", "classify", "segment", "translate"])
def test_a_run_that_was_killed_while_it_saved_ends_as_an_uninterrupted_one(
    family: str, fork: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(family)
    words = train_words(family, "run", STEPS * BATCH)
    # Saves come at the start and then before every step: of 0, 0, 1, 2 … steps. The state is written first.
    for name, count, steps in (("state.safetensors", 3, 0), ("weights.safetensors", 4, 2)):
        resume = ["--resume"] if Path("run").exists() else []
        process = fork(*words, "--save-minutes", "0", *resume, kill_before=name, kill_count=count)
        assert process.wait() == -signal.SIGKILL, process.err
        assert list(Path("run").glob(".*.part"))
        assert read_state(Path("run"))[1]["steps"] == steps
    assert run_cli(capsys, *words, "--resume")[0] == 0
    assert run_cli(capsys, *train_words(family, "whole", STEPS * BATCH))[0] == 0
    assert problems(Path("run")) == differences(Path("run"), Path("whole")) == []


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    fork: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images(Path("imgs"))
    words = train_words("gan", "run", BATCH)
    assert fork(*words, kill_before="state.safetensors").wait() == -signal.SIGKILL
    code, _, err = run_cli(capsys, *words, "--resume")
    assert code == 2 and "leave --resume out" in err
    assert run_cli(capsys, *words)[0] == 0 and problems(Path("run")) == []
