import dataclasses

import pytest

from bench.outcome import Outcome
from bench.peers.rounds import pooled
from bench.slices import OpenLoop, Recording, ServerFigures, Slice
from tests.support import outcomes


def recording(seed, seconds, **figures):
    begins = [index * 0.5 for index in range(seconds * 2)]
    intervals = [
        outcomes.interval(begin, length_s=0.5, seed=seed + index, **figures) for index, begin in enumerate(begins)
    ]
    return Recording(Slice(load=OpenLoop(rate_per_s=1000, duration_s=seconds), slo_ms=5.0), intervals)


def test_one_round_is_itself():
    outcome = outcomes.outcome()
    assert pooled([outcome]) is outcome


def test_rounds_add_up_to_the_run_that_they_are_together():
    first, second = recording(1, 2), recording(50, 3, middle_us=1500.0, busy=0.5)
    later = [dataclasses.replace(part, begin_s=part.begin_s + 2, end_s=part.end_s + 2) for part in second.intervals]
    asked = Slice(load=OpenLoop(rate_per_s=1000, duration_s=5), slo_ms=5.0)
    whole = Outcome.of(Recording(asked, [*first.intervals, *later]), 1)
    parts = pooled([Outcome.of(part, 1) for part in (first, second)])
    assert parts.latency_us == whole.latency_us
    assert (parts.sent, parts.answered, parts.duration_s) == (whole.sent, whole.answered, 5)
    assert parts.throughput_rps == pytest.approx(whole.throughput_rps)
    assert parts.goodput_rps == pytest.approx(whole.goodput_rps)
    assert parts.busy_share == pytest.approx(whole.busy_share)
    assert [point.at_s for point in parts.timeline] == [point.at_s for point in whole.timeline]


def test_what_went_wrong_in_any_round_is_kept():
    rounds = [
        outcomes.outcome(errors={"UNAVAILABLE": 2}, duration_s=1.0),
        outcomes.outcome(errors={"UNAVAILABLE": 1, "INTERNAL": 1}, duration_s=1.0, unanswered=3, failure="it died"),
    ]
    together = pooled(rounds)
    assert together.errors == {"INTERNAL": 4, "UNAVAILABLE": 12}
    assert (together.unanswered, together.failure) == (3, "it died")


def test_a_client_that_was_the_limit_once_was_the_limit():
    limited = dataclasses.replace(outcomes.outcome(), client_limited=True, lag_p99_us=900.0)
    together = pooled([outcomes.outcome(), limited])
    assert (together.client_limited, together.lag_p99_us) == (True, 900.0)


def test_what_servers_say_is_weighted_by_answers():
    figures = (
        ServerFigures({"queue": 10.0}, None, {1: 10, 4: 2}, 30.0),
        ServerFigures({"queue": 40.0}, None, {4: 3}, 60.0),
    )
    rounds = [
        dataclasses.replace(outcomes.outcome(server=server), answered=answered)
        for server, answered in zip(figures, (200, 100), strict=True)
    ]
    server = pooled(rounds).server
    assert server.stages_us == {"queue": 20.0}
    assert server.cpu_us_per_request == 40.0
    assert server.batch_rows == {1: 10, 4: 5}
    assert server.mean_batch_rows == 2.0


def test_rounds_of_a_silent_server_tell_nothing_of_it():
    server = pooled([outcomes.silent(), outcomes.silent("refused")]).server
    assert server == ServerFigures()


def test_a_figure_that_some_rounds_lack_is_that_of_the_others():
    rounds = [outcomes.outcome(), outcomes.outcome(server=ServerFigures())]
    assert pooled(rounds).server.cpu_us_per_request == outcomes.SERVER.cpu_us_per_request
