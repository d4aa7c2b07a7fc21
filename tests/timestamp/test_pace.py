"""How often an authority is asked."""

from datetime import timedelta

from polledger.timestamp.pace import FIRST_REST, LONGEST_REST, Pace


class Timer:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nobody_waits_for_the_first_request() -> None:
    pace = Pace(timedelta(seconds=15), Timer())
    assert (pace.spacing(), pace.rest(), pace.is_down) == (0.0, 0.0, False)


def test_interval_lies_between_two_requests() -> None:
    timer = Timer()
    pace = Pace(timedelta(seconds=15), timer)
    pace.asked()
    timer.now += 5
    assert pace.spacing() == 10.0
    timer.now += 11
    assert pace.spacing() == 0.0


def test_what_was_asked_a_while_ago_shortens_no_interval() -> None:
    pace = Pace(timedelta(seconds=15), Timer())
    pace.asked(ago=5)
    assert pace.spacing() == 10.0
    pace.asked(ago=14)
    assert pace.spacing() == 10.0
    pace.asked(ago=3600)
    assert pace.spacing() == 10.0


def test_rest_doubles_up_to_a_limit_and_ends_with_an_answer() -> None:
    timer = Timer()
    pace = Pace(timedelta(0), timer)
    rests = []
    for _ in range(100):
        pace.failed()
        rests.append(pace.rest())
    first = FIRST_REST.total_seconds()
    assert rests[:4] == [first, 2 * first, 4 * first, 8 * first]
    assert max(rests) == rests[-1] == LONGEST_REST.total_seconds()
    assert pace.is_down
    pace.answered()
    assert (pace.rest(), pace.is_down) == (0.0, False)
    pace.failed()
    assert pace.rest() == first


def test_hurry_ends_the_rest_and_not_the_interval() -> None:
    pace = Pace(timedelta(seconds=15), Timer())
    pace.asked()
    pace.failed()
    pace.hurry()
    assert (pace.spacing(), pace.rest(), pace.is_down) == (15.0, 0.0, True)
