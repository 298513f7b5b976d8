import dataclasses
import math

import pytest

from bench.report import findings
from bench.report.views import (
    ComparisonView,
    FrontierView,
    KneeView,
    PeersView,
    Ratio,
    Run,
    RunView,
    Setting,
    SweepView,
)
from tests.support import outcomes


def compared(name, ratio, low, high):
    return findings.headline(ComparisonView(name_a="A", name_b="B", metrics={name: Ratio(ratio, low, high)}))


def texts(view):
    return [(notice.severity, notice.text) for notice in findings.notices(view)]


@pytest.mark.parametrize(
    ("name", "ratio", "words"),
    [
        ("latency p99", 1.08, "B is 8.0 % slower at p99"),
        ("latency p99", 0.92, "B is 8.0 % faster at p99"),
        ("throughput", 1.08, "B answers 8.0 % more requests/s"),
        ("throughput", 0.92, "B answers 8.0 % fewer requests/s"),
        ("CPU per request", 1.08, "B takes 8.0 % more CPU per request"),
        ("odd {name}", 1.08, "B is 8.0 % higher in odd {name}"),
    ],
)
def test_a_shown_difference_is_said_in_words(name, ratio, words):
    interval = f"(95 % interval {(ratio - 1.03) * 100:+.1f} % to {(ratio - 0.97) * 100:+.1f} %)"
    assert compared(name, ratio, ratio - 0.03, ratio + 0.03) == f"{words} {interval}"


def test_an_interval_across_1_shows_no_difference():
    text = compared("latency p99", 1.02, 0.98, 1.06)
    assert text == "latency p99: no difference shown (+2.0 %, 95 % interval -2.0 % to +6.0 %)"


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.1), (0.9, 1.0)])
def test_an_interval_that_ends_at_1_shows_no_difference(low, high):
    assert not findings.is_shown(Ratio(1.0, low, high))


def test_a_figure_that_one_side_lacks_is_not_compared():
    assert compared("CPU per request", math.nan, math.nan, math.nan).endswith("one side has no figure")


def test_the_confidence_is_the_view_s():
    view = ComparisonView(name_a="A", name_b="B", metrics={"latency p50": Ratio(1.1, 1.05, 1.2)}, confidence=0.99)
    assert "99 % interval" in findings.headline(view)


def test_a_comparison_of_many_figures_names_those_that_differ():
    assert findings.headline(outcomes.comparison_view()) == "B is 8.0 % slower at p50; B is 7.0 % faster at p99"


def test_a_knee_is_said_with_its_interval():
    text = findings.headline(outcomes.knee_view())
    assert text == "p99 <= 8.50 ms is met up to 2,960 requests/s (95 % interval 2,850 to 3,080)"
    assert ("note", "The search ended: the interval is narrow enough") in texts(outcomes.knee_view())


def test_without_a_knee_it_is_said_what_is_known_instead():
    view = KneeView(
        objective_ms=10.0,
        rate_rps=None,
        low_rps=None,
        high_rps=None,
        probes=(),
        ended="p99 is above 10 ms even at 12/s",
    )
    assert findings.headline(view) == "No knee: p99 is above 10 ms even at 12/s"
    assert texts(view) == []


@pytest.mark.parametrize("kind", sorted(set(outcomes.VIEWS) - {"run"}))
def test_a_command_that_ended_early_says_so_first(kind):
    view = dataclasses.replace(outcomes.VIEWS[kind](), failure="the server closed the connection")
    assert texts(view)[0] == ("failure", "Ended before its time: the server closed the connection")


def test_a_run_is_said_with_its_objective():
    assert "came back within 5.00 ms" in findings.headline(outcomes.run_view())
    assert "came back" not in findings.headline(outcomes.run_view(slo_ms=None))


def test_the_best_of_a_sweep_is_the_load_with_the_most_goodput():
    assert findings.headline(outcomes.sweep_view()).startswith("Most goodput: 3,108 requests/s at 3,500/s")
    assert findings.headline(SweepView((Run("a", outcomes.silent()),))) == "No load was answered"


def test_tuning_and_peers_name_the_best():
    assert findings.headline(FrontierView((Setting("two", 10.0, 1e3, True, True),))).startswith("Recommended: two")
    assert findings.headline(FrontierView(())) == "None of 0 settings can be recommended"
    assert findings.headline(outcomes.peers_view()) == "Most throughput: penstock with 9,000 requests/s"
    assert findings.headline(PeersView(())) == "No server answered"


def test_an_ordinary_run_has_nothing_to_know_about():
    assert texts(outcomes.run_view()) == []


def test_a_failure_comes_first():
    found = texts(outcomes.run_view(failure="it died", busy=0.95, errors={"UNAVAILABLE": 2}, unanswered=3))
    assert [severity for severity, _ in found] == ["failure", "warning", "warning", "warning"]
    assert "it died" in found[0][1]


def test_a_limited_client_is_told_with_reason_and_remedy():
    ((severity, text),) = texts(outcomes.run_view(lag_us=400.0))
    assert severity == "warning"
    assert "the client was the limit" in text
    assert "Lower the rate" in text


def test_errors_are_told_by_code_the_most_frequent_first():
    view = outcomes.run_view(errors={"DEADLINE_EXCEEDED": 1, "UNAVAILABLE": 12})
    assert texts(view)[0][1].startswith("520 errors, 4.9 % of what was sent: UNAVAILABLE 480, DEADLINE_EXCEEDED 40")


def test_of_many_runs_those_are_named_that_a_warning_is_about():
    limited = [text for _, text in texts(outcomes.sweep_view()) if "the limit" in text]
    assert limited[0].startswith("5,000/s: the client was the limit")


def test_a_thin_tail_is_noted_at_the_lowest_percentile_that_it_touches():
    assert texts(outcomes.run_view(rate=40.0))[0][1].startswith("p99 rests on fewer than 10 answers")
    assert texts(outcomes.run_view(rate=400.0))[0][1].startswith("p99.9 rests on fewer than 10 answers")


def test_no_answers_at_all_is_a_failure():
    found = texts(RunView(Run("run", outcomes.silent("UNAVAILABLE: nobody listens"))))
    assert [severity for severity, _ in found] == ["failure", "failure", "warning"]
    assert "nobody listens" in found[0][1]


def test_absent_peers_are_noted():
    assert ("note", "Skipped Triton: no tritonserver on this machine") in texts(outcomes.peers_view())
