import contextlib

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeRegressor

from converters.adapters import scikit_learn, scikit_learn_labels, scikit_learn_workarounds
from converters.conversion import convert
from converters.graph import load
from converters.packaging import Label, contents_of
from converters.runner import Runner
from converters.sample import Sample
from converters.target import OLDEST
from serving.errors import ConfigError
from serving.types import Datatype
from tests.support import trained


def buying_pipeline(model):
    frame, labels = trained.people()
    columns = make_column_transformer(
        (StandardScaler(), ["age", "income"]),
        (OneHotEncoder(handle_unknown="ignore"), ["city", "children"]),
    )
    return make_pipeline(columns, model).fit(frame, labels), frame


def test_a_classifier_takes_features_and_gives_label_and_probabilities_as_tensors():
    done = convert(*trained.forest())
    assert [spec.name for spec in done.signature.inputs] == ["features"]
    assert [(spec.name, spec.datatype, spec.shape) for spec in done.signature.outputs] == [
        ("label", Datatype.INT64, (-1,)),
        ("probabilities", Datatype.FP32, (-1, 3)),
    ]
    assert done.signature.batchable


def test_an_output_is_declared_with_the_shape_that_it_has():
    """skl2onnx declares one value per row for trees of several targets, and a score per class for pairs of classes."""
    rows = np.random.default_rng(0).normal(size=(60, 4))
    several = convert(DecisionTreeRegressor(max_depth=3, random_state=0).fit(rows, rows[:, :3]), rows)
    assert several.signature.outputs[0].shape == (-1, 3)
    pairs = convert(SVC(decision_function_shape="ovo").fit(rows, np.arange(60) % 4), rows)
    assert pairs.signature.outputs[1].shape == (-1, 6)
    assert not contents_of(pairs, Label("pairs")).labels


def test_columns_of_words_and_numbers_become_a_tensor_each():
    done = convert(*buying_pipeline(LogisticRegression()))
    assert [(spec.name, spec.datatype, spec.shape) for spec in done.signature.inputs] == [
        ("age", Datatype.FP32, (-1, 1)),
        ("income", Datatype.FP32, (-1, 1)),
        ("city", Datatype.BYTES, (-1, 1)),
        ("children", Datatype.INT64, (-1, 1)),
    ]
    assert done.draft.labels == ("buys", "leaves")
    check = next(check for check in done.report.checks if check.name == "edge-unseen")
    assert check.verdict == "passed"


@pytest.mark.parametrize(
    ("learned", "given", "message"),
    [
        (["02139", "10001"], [2139, 10001], "learned words in column 'zip', such as 02139, and .* numbers .* 2139;"),
        ([2139, 10001], ["02139", "10001"], "learned numbers in column 'zip', such as 2139, and .* words .* 02139;"),
    ],
)
def test_words_for_numbers_and_numbers_for_words_are_refused(learned, given, message):
    """An encoder that ignores what it does not know would answer, and wrongly; a .csv reads zip codes as numbers."""
    import pandas as pd

    frame = pd.DataFrame({"age": np.arange(20.0), "zip": learned * 10})
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["zip"]), remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression()).fit(frame, np.arange(20) % 2)
    with pytest.raises(ConfigError, match=message):
        convert(model, frame.assign(zip=given * 10))


def test_scaling_before_trees_is_done_as_exactly_as_scikit_learn_does_it():
    done = convert(*buying_pipeline(RandomForestClassifier(20, random_state=0)))
    assert done.report.largest()[0] < 1e-6
    assert any("float64" in note for note in done.report.notes)


def test_a_scaler_to_a_range_before_trees_is_found_in_the_graph():
    rows, labels = trained.iris()
    model = make_pipeline(MinMaxScaler(), RandomForestClassifier(5, random_state=0)).fit(rows, labels)
    converted = load(convert(model, rows).graph)
    assert [node.op_type for node in converted.graph.node][:5] == ["Cast", "Cast", "Mul", "Add", "Cast"]


def test_a_table_of_numbers_alone_becomes_one_matrix_whose_columns_are_named():
    frame, labels = trained.people()
    numbers = frame[["age", "income"]]
    model = LogisticRegression(max_iter=1000).fit(numbers, labels)
    done = convert(model, numbers)
    assert [spec.name for spec in done.signature.inputs] == ["features"]
    assert done.draft.feature_names == ("age", "income")


def test_columns_are_taken_by_name_and_not_by_place():
    pipeline, frame = buying_pipeline(LogisticRegression())
    swapped = frame[["children", "city", "income", "age"]]
    assert convert(pipeline, swapped).draft.feature_names == ("age", "income", "city", "children")
    with pytest.raises(ConfigError, match=r"lacks city, which the model was trained with"):
        convert(pipeline, frame.drop(columns="city"))


def test_a_classifier_without_probabilities_gives_scores():
    rows, labels = trained.cancer()
    done = convert(LinearSVC().fit(rows, labels), rows)
    assert [output.name for output in done.draft.outputs] == ["label", "scores"]


def test_a_clustering_gives_labels_and_distances():
    rows, _ = trained.iris()
    done = convert(KMeans(3, n_init=1, random_state=0).fit(rows), rows)
    assert [output.name for output in done.draft.outputs] == ["label", "distances"]


def test_a_step_that_runs_code_is_refused_with_what_to_do_instead():
    rows, labels = trained.iris()
    model = make_pipeline(FunctionTransformer(np.log1p), LogisticRegression(max_iter=1000)).fit(rows, labels)
    with pytest.raises(
        ConfigError, match=r"FunctionTransformer\(log1p\), which runs Python code.*use a transformer that"
    ):
        convert(model, rows)


def test_an_estimator_without_a_converter_is_named():
    from sklearn.neighbors import NearestCentroid

    rows, labels = trained.iris()
    with pytest.raises(ConfigError, match=r"no converter for NearestCentroid; replace it"):
        convert(NearestCentroid().fit(rows, labels), rows)


def test_a_model_that_answers_nothing_for_new_rows_is_refused():
    rows, _ = trained.iris()
    with pytest.raises(ConfigError, match="AgglomerativeClustering has neither predict nor transform"):
        convert(AgglomerativeClustering().fit(rows), rows)


def test_several_labels_per_row_are_refused():
    rows, labels = trained.iris()
    both = np.stack([labels, labels == 1], axis=1)
    with pytest.raises(ConfigError, match="one model per label"):
        convert(MultiOutputClassifier(LogisticRegression(max_iter=1000)).fit(rows, both), rows)


def test_a_matrix_of_words_is_taken_by_a_model_of_words_and_refused_for_one_of_numbers():
    words = np.array([["red", "small"], ["blue", "large"], ["red", "large"]] * 10)
    model = make_pipeline(OneHotEncoder(), LogisticRegression()).fit(words, words[:, 0] == "red")
    assert [spec.datatype for spec in convert(model, words).signature.inputs] == [Datatype.BYTES]
    numbers, labels = trained.iris()
    with pytest.raises(ConfigError, match=r"input features with a wrong type .*StringTensorType"):
        convert(LogisticRegression(max_iter=1000).fit(numbers, labels), np.array([list("abcd")] * 3))


def test_a_sample_of_another_width_is_refused():
    model, rows = trained.forest()
    with pytest.raises(ConfigError, match="the sample has 3 features, and the model was trained with 4"):
        convert(model, rows[:, :3])


def test_the_workaround_for_histogram_boosting_is_still_needed(monkeypatch):
    """When this fails, skl2onnx and protobuf agree again: drop `plain_attributes`."""
    rows, values = trained.diabetes()
    model = HistGradientBoostingRegressor(max_iter=3).fit(rows, values)
    monkeypatch.setattr(scikit_learn_workarounds, "_plain", lambda value: value)
    with pytest.raises(ConfigError, match="cannot convert HistGradientBoostingRegressor"):
        scikit_learn.draft(model, Sample.of(rows), OLDEST)


def test_the_workaround_for_histogram_boosting_is_told_when_it_was_used():
    rows, values = trained.diabetes()
    noted = scikit_learn.draft(HistGradientBoostingRegressor(max_iter=3).fit(rows, values), Sample.of(rows), OLDEST)
    assert scikit_learn_workarounds.HISTOGRAM_NOTE in noted.notes
    assert scikit_learn.draft(*map_forest(), OLDEST).notes != noted.notes


def map_forest():
    model, rows = trained.forest()
    return model, Sample.of(rows)


def test_the_workaround_for_missing_numbers_in_forests_is_still_needed(monkeypatch):
    """When this fails, skl2onnx writes where trees send NaN: drop `scikit_learn_missing`."""
    monkeypatch.setattr(scikit_learn, "set_missing", lambda *_: False)
    with pytest.raises(ConfigError, match="edge-nan"):
        convert(*trained.forest())


def test_labels_are_read_from_the_decision_where_probabilities_reach_one():
    """Rows that are not scaled: without this 110 of 178 labels are another class, each with a margin of almost 0."""
    rows, labels = load_wine(return_X_y=True)
    model = SGDClassifier(loss="log_loss", random_state=0).fit(rows, labels)
    done = convert(model, rows)
    runner = Runner(done.graph)
    np.testing.assert_array_equal(runner.run(runner.cast({"features": rows}))["label"], model.predict(rows))
    assert scikit_learn_labels.NOTE in done.report.notes


def test_many_labels_that_differ_are_refused_however_small_their_margins(monkeypatch):
    """When this fails, skl2onnx reads labels from the decision: drop `scikit_learn_labels`."""
    rows, labels = load_wine(return_X_y=True)
    monkeypatch.setattr(scikit_learn, "read_from_decision", lambda *_: False)
    with pytest.raises(ConfigError, match=r"sample: 110 labels differ \(margin up to 0"):
        convert(SGDClassifier(loss="log_loss", random_state=0).fit(rows, labels), rows)


@pytest.mark.parametrize("options", [{"voting": "soft"}, {"voting": "hard"}, {"voting": "soft", "weights": [1, 3]}])
def test_votes_are_counted_whatever_the_options_of_the_vote(options):
    rows, labels = trained.iris()
    members = [("linear", LogisticRegression(max_iter=1000)), ("forest", RandomForestClassifier(5, random_state=0))]
    model = VotingClassifier(members, **options).fit(rows, labels)
    convert(model, rows)
    assert model.flatten_transform
    assert model.weights == options.get("weights")


def test_the_workaround_for_votes_is_still_needed(monkeypatch):
    """When this fails, skl2onnx takes VotingClassifier as it is by default: drop `plain_votes`."""
    rows, labels = trained.iris()
    monkeypatch.setattr(scikit_learn, "plain_votes", lambda _: contextlib.nullcontext())
    with pytest.raises(ConfigError, match="cannot convert VotingClassifier: flatten_transform==True"):
        convert(VotingClassifier([("linear", LogisticRegression(max_iter=1000))]).fit(rows, labels), rows)


def test_trees_send_missing_numbers_where_scikit_learn_does():
    model, rows = trained.forest()
    holes = rows.copy()
    holes[np.arange(len(rows)), np.arange(len(rows)) % 4] = np.nan
    runner = Runner(convert(model, rows).graph)
    got = runner.run(runner.cast({"features": holes}))
    np.testing.assert_allclose(got["probabilities"], model.predict_proba(holes), atol=1e-6)


def test_words_among_the_numbers_of_a_matrix_are_pointed_at():
    """skl2onnx tells only how many inputs it was given."""
    model, rows = trained.forest()
    columns = {f"c{place}": rows[:, place] for place in range(rows.shape[1])}
    columns["c2"] = np.where(columns["c2"] > 3, "1e999", "5").astype(object)
    with pytest.raises(ConfigError, match=r"words in column 'c2', such as '(1e999|5)'"):
        convert(model, columns)
