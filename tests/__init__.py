"""The tests of imggen; a package, so that `python -m tests.faults.hostile` finds it before any other `tests`."""
