"""The command that tries damaged input: it can be stopped, says how far it came, and goes on from there."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.faults.hostile import PROGRESS_INPUTS, ROOT, try_target

pytestmark = [pytest.mark.process, pytest.mark.slow]
NAME = "archives.names"


def test_a_stopped_command_says_how_far_it_came() -> None:
    first = PROGRESS_INPUTS - 20
    words = [sys.executable, "-m", "tests.faults.hostile", NAME, "--start", str(first), "--count", "1000000"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, process_group=0)
    assert process.stdout is not None
    header, progress = process.stdout.readline(), process.stdout.readline()
    assert header.startswith("target")
    assert re.match(rf"{NAME} +at input 2,\d\d\d, 0 faults", progress)
    os.killpg(process.pid, signal.SIGTERM)  # as `timeout` does
    row, message = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 130
    name, inputs, accepted, refused, faults = row.split()[:5]
    assert name == NAME and faults == "0" and int(inputs) == int(accepted) + int(refused) >= 20
    assert message == f"stopped: go on with {NAME} --start {first + int(inputs)}"


def test_the_inputs_of_two_parts_are_those_of_the_whole() -> None:
    whole, first, second = try_target(NAME, 60), try_target(NAME, 25), try_target(NAME, 60, start=25)
    assert first.accepted + second.accepted == whole.accepted > 0
    assert first.refused + second.refused == whole.refused > 0
    assert whole.accepted + whole.refused == whole.following == second.following == 60
