"""What `penstock bench simulate` shows of judged workloads; judging itself is tested beside the simulator."""

import pytest

from bench.commands.simulate import view_of
from bench.report import findings, page, summary
from bench.simulate import COLUMNS
from bench.simulation.verdict import Row, Score
from bench.simulation.workloads import drawn


def row(workload, **goodput):
    scores = {name: Score(goodput.get(name, 0.5), 1.0, 2.0, 0.0, 0.0, 4.0, 0.5, 8.0) for name in COLUMNS}
    return Row(workload, scores, (0.25, 8))


@pytest.fixture
def workloads():
    judged, aside = drawn()
    return judged[:3], aside[:2]


def test_a_policy_that_is_as_good_as_all_others_keeps_the_rules(workloads):
    judged, aside = workloads
    view = view_of({"judged": [row(one) for one in judged], "kept aside": [row(one) for one in aside]})
    assert findings.headline(view) == "The policy keeps all 10 rules over 5 workloads"
    assert [one.is_aside for one in view.workloads] == [False, False, False, True, True]
    assert view.workloads[0].window == "0.25 ms, 8"


def test_a_broken_rule_is_named_and_marked(workloads):
    judged, _ = workloads
    rows = [row(judged[0], ours=0.4), *(row(one) for one in judged[1:])]
    view = view_of({"judged": rows, "kept aside": []})
    broken = [rule.name for rule in view.rules if not rule.is_kept]
    assert broken == ["the best window, worst", "natural batching, worst"]
    assert "breaks 2 of 5 rules" in findings.headline(view)
    rules, table = summary.tables(view)
    assert rules.marked == {1, 2}
    assert table.rows[0][1:3] == ("0.4000", "0.5000")


def test_the_plots_show_every_workload_and_survive_a_policy_that_answers_nothing(workloads):
    judged, aside = workloads
    rows = [row(one, none=0.0) for one in judged]
    ratios, goodput = page.plots(view_of({"judged": rows, "kept aside": [row(one) for one in aside]}))
    assert "bentoml" in ratios.svg
    assert "(aside)" in goodput.svg
    assert goodput.svg.startswith("<svg")
