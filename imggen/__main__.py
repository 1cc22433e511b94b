"""The program `imggen`, and `python -m imggen`."""

import os
import signal
from collections.abc import MutableMapping

# How often a thread of OpenMP looks whether the others are done before it sleeps. By default it is 300,000 times: if
# another process keeps one of two cores busy, most of the time of a training is spent on that. Images a second of
# `gan/tiny`, 32 px, on two idle cores, and with one of them busy: 133 and 43 by default, 130 and 77 with 1,000, and
# 121 and 82 without spinning.
SPINS = "1000"


def run() -> None:
    """Run the command line. Ctrl-C while Python still imports ends it at once: nothing has been done yet."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    limit_spinning(os.environ)
    from imggen.cli.app import main

    main()


def limit_spinning(environment: MutableMapping[str, str]) -> None:
    """Let idle threads sleep soon, unless the environment says how they wait; to be called before torch is loaded."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(environment):
        environment["GOMP_SPINCOUNT"] = SPINS


if __name__ == "__main__":
    run()
