"""The training time: what a clock that jumps does to it."""

from imggen.engine.training.timers import MAX_GAP_SECONDS, SteadyClock, Timers


def test_a_clock_that_jumps_neither_ends_a_training_nor_stops_its_time() -> None:
    now = 1000.0
    clock = SteadyClock(lambda: now)
    timers = Timers(50.0, {"save": 60.0, "evaluate": None}, clock)
    now += 10
    assert timers.trained() == 60 and not timers.due("save")
    now += 1e6  # the machine was asleep
    assert timers.trained() == 60 + MAX_GAP_SECONDS and timers.due("save")
    timers.restart("save")
    now -= 2e6  # a clock that is set back stands still once
    assert timers.trained() == 60 + MAX_GAP_SECONDS
    for _ in range(7):
        now += 10
        clock()
    assert timers.trained() == 130 + MAX_GAP_SECONDS and timers.due("save") and not timers.due("evaluate")
