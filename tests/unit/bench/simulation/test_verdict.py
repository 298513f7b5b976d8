from bench.simulation.verdict import Row, Score, verdict
from bench.simulation.workloads import Workload


def row(ours, window=1.0, natural=1.0, aimd=1.0, bentoml=1.0):
    goodputs = {"ours": ours, "window": window, "natural": natural, "aimd": aimd, "bentoml": bentoml}
    scores = {name: Score(goodput, 0, 0, 0, 0, 0, 0, 0) for name, goodput in goodputs.items()}
    return Row(Workload("flat", 0.5, "poisson", 2.0, 1), scores, (0.0, 1))


def test_the_rules_hold_at_their_bounds():
    assert verdict([row(1.0), row(1.0), row(0.985)]).kept


def test_each_rule_can_be_broken():
    assert not verdict([row(0.94, natural=0.5, aimd=0.5, bentoml=0.5)] * 3).kept, "median below the best window"
    assert not verdict([row(1.0), row(1.0), row(0.89, natural=0.5)]).kept, "worst below the best window"
    assert not verdict([row(1.0), row(1.0), row(0.97)]).kept, "below natural batching"
    assert not verdict([row(1.0, aimd=1.01)] * 3).kept, "behind AIMD"
    assert not verdict([row(1.0, bentoml=1.01)] * 3).kept, "behind BentoML"


def test_a_workload_on_which_nobody_reaches_anything_says_nothing():
    assert row(0.0, window=0.0).ratio("window") == 1.0
