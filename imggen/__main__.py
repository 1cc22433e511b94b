"""The program `imggen`, and `python -m imggen`."""

import os
import signal


def run() -> None:
    """Run the command line. Ctrl-C while Python still imports ends it at once: nothing has been done yet."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    from imggen.cli.app import main

    main()


if __name__ == "__main__":
    run()
