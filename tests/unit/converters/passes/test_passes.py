import numpy as np
import pytest
from onnx import numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from converters.conversion import convert
from converters.graph import load
from converters.parity.gate import Settings, judge
from converters.parity.tolerance import LOSSY
from converters.passes import PASSES, apply, check_names, trials
from converters.race import Race
from converters.target import OLDEST
from serving.errors import ConfigError
from tests.support import trained


@pytest.fixture(scope="module")
def perceptron():
    rows, values = trained.diabetes()
    scaled = (values - values.mean()) / values.std()
    with pytest.warns(ConvergenceWarning):
        return MLPRegressor(hidden_layer_sizes=(64,), max_iter=60, random_state=0).fit(rows * 20, scaled), rows * 20


def test_a_pass_is_applied_proved_and_recorded(perceptron):
    done = convert(*perceptron, passes=["slim"])
    assert done.passes == ("slim",)
    assert done.report.passed
    (facts,) = ({entry.key: entry.value for entry in load(done.graph).metadata_props},)
    assert facts["penstock.passes"] == "slim"


def test_half_precision_keeps_the_signature_and_makes_weights_small(perceptron):
    plain, half = convert(*perceptron), convert(*perceptron, passes=["fp16"])
    assert half.signature == plain.signature
    kinds = {numpy_helper.to_array(tensor).dtype.name for tensor in load(half.graph).graph.initializer}
    assert "float16" in kinds
    assert "float32" not in kinds
    assert half.report.tolerance.rtol > plain.report.tolerance.rtol


def test_half_precision_of_trees_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="does nothing for TreeEnsembleClassifier, which compute in float32 only"):
        convert(*trained.forest(), passes=["fp16"])


def test_static_quantisation_does_not_depend_on_the_batch(perceptron):
    done = convert(*perceptron)
    made = apply("int8-static", done.graph, done.draft.exact, target=OLDEST, seed=0)
    report = judge(done.draft, made, Settings(), tolerance=LOSSY["int8-static"])
    checks = {check.name: check for check in report.checks}
    assert checks["invariance"].verdict == "passed"
    assert checks["sample"].beyond < 0.1 * checks["sample"].rows


def test_a_pass_is_recommended_only_when_it_is_right_and_shown_faster(perceptron, monkeypatch):
    races = {
        "slower: 1.30": Race(1.3, 1.2, 1.4, 10.0),
        "no difference in speed": Race(0.97, 0.9, 1.1, 10.0),
        "faster: 0.50": Race(0.5, 0.4, 0.6, 10.0),
    }
    for told, race in races.items():
        monkeypatch.setattr(trials, "race", lambda *_, race=race: race)
        found = {trial.passes[-1]: trial for trial in convert(*perceptron, recommend=True).trials}
        assert set(found) == set(PASSES)
        assert found["optimised"].recommended is told.startswith("faster")
        assert told in found["optimised"].why
        assert found["int8-static"].recommended is False
        assert "parity does not hold" in found["int8-static"].why


def test_timings_never_enter_what_is_packed(perceptron, monkeypatch):
    monkeypatch.setattr(trials, "race", lambda *_: Race(0.5, 0.4, 0.6, 10.0))
    fast = convert(*perceptron, passes=["optimised"])
    monkeypatch.setattr(trials, "race", lambda *_: Race(2.0, 1.9, 2.1, 99.0))
    slow = convert(*perceptron, passes=["optimised"])
    assert fast.graph == slow.graph
    assert fast.report.to_json() == slow.report.to_json()
    assert fast.trials != slow.trials


def test_an_unknown_pass_is_told_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown pass 'int8'; known are slim, optimised, fp16, int8-static"):
        check_names(["int8"])


def test_passes_are_proved_on_the_sample_they_were_given(perceptron):
    model, rows = perceptron
    same = [convert(model, rows, passes=["fp16"]).graph for _ in range(2)]
    assert same[0] == same[1]
    assert np.isfinite(convert(model, rows).report.largest()[0])
