"""Signals that ask a training to stop."""

import os
import signal

import pytest

from imggen.engine.training.signals import StopRequest, stop_requests
from imggen.errors import InterruptedRun


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_asks_and_the_second_ends(name: str) -> None:
    number = getattr(signal, name)
    outer = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run where it is ignored
    before = signal.getsignal(number)
    stop = StopRequest()
    with pytest.raises(InterruptedRun, match="stopped at once") as caught, stop_requests(stop):
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.exit_code == 128 + number
        assert ("Ctrl-C" if name == "SIGINT" else name) in stop.error("saved").message
        os.kill(os.getpid(), number)
    after = signal.signal(number, outer)
    assert caught.value.exit_code == 128 + number and after == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop_requests(stop):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)
