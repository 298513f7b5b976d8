import json

import joblib
import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.tree import DecisionTreeClassifier

from converters.command import command
from serving.errors import ConfigError
from serving.package import Golden, read
from serving.statistics.profile import ReferenceProfile
from tests.support import graphs, trained
from tests.support.command_line import run


@pytest.fixture
def forest(tmp_path):
    model, rows = trained.forest()
    joblib.dump(model, tmp_path / "forest.joblib")
    np.save(tmp_path / "rows.npy", rows)
    return tmp_path


def convert(folder, *options, model="forest.joblib", sample="rows.npy", out="models/iris/1"):
    arguments = [str(folder / model), "--sample", str(folder / sample), "--out", str(folder / out), *options]
    return CliRunner().invoke(command, arguments)


def failure(result) -> str:
    assert isinstance(result.exception, ConfigError), result.output
    return str(result.exception)


def test_a_package_holds_all_that_serving_and_release_ask_for(forest):
    licence = forest / "LICENSE"
    licence.write_text("Mine.\n")
    result = convert(forest, "--licence", str(licence))
    assert result.exit_code == 0, result.output
    assert "iris answers as its framework does (13 checks)" in result.stdout
    package = read(forest / "models" / "iris" / "1")
    package.verify()
    assert package.name == "iris"
    assert package.labels == {"probabilities": ("0", "1", "2")}
    assert package.licence == "Mine.\n"
    assert package.parity["passed"]
    assert package.lineage["versions"]["scikit-learn"]
    assert package.lineage["parameters"]["n_estimators"] == "5"
    assert package.lineage["digests"]["model"].startswith("sha256:")
    golden = Golden.from_bytes(package.golden)
    np.testing.assert_array_equal(golden.outputs["label"], trained.forest()[0].predict(golden.inputs["features"]))
    profile = ReferenceProfile.from_bytes(package.profile)
    assert [feature.name for feature in profile.features][:2] == ["features[0]", "features[1]"]


def test_the_columns_of_a_ready_graph_are_named_whatever_its_input_is_called(tmp_path):
    (tmp_path / "affine.onnx").write_bytes(graphs.affine())
    (tmp_path / "rows.csv").write_text("a,b,c,d\n" + "1,2,3,4.5\n" * 5)
    assert convert(tmp_path, model="affine.onnx", sample="rows.csv").exit_code == 0
    package = read(tmp_path / "models" / "iris" / "1")
    (taken,) = package.signature.inputs
    assert taken.name != "features"
    assert package.columns == {taken.name: ("a", "b", "c", "d")}


def test_the_same_inputs_give_the_same_package_on_two_runs(forest):
    for version in (1, 2):
        assert convert(forest, out=f"models/iris/{version}").exit_code == 0
    first, second = (read(forest / "models" / "iris" / str(version)).digest for version in (1, 2))
    assert first == second
    assert convert(forest).exit_code == 0  # and what is there already is left alone


def test_a_report_names_a_sample_whose_name_is_no_utf_8(forest, capsys):
    sample = "rows\udcff.npy"
    (forest / "rows.npy").rename(forest / sample)
    page, data = forest / "report.html", forest / "report.json"
    arguments = (str(forest / "forest.joblib"), "--sample", str(forest / sample), "--out", str(forest / "iris/1"))
    assert run("convert", *arguments, "--html", str(page), "--json", str(data)) == 0
    assert "rows\\udcff.npy" in capsys.readouterr().out
    assert sample in json.loads(data.read_text())["facts"]["sample"]
    assert "rows\\udcff.npy" in page.read_text()


def test_the_report_is_written_as_a_page_and_as_json(forest):
    page, data = forest / "report.html", forest / "report.json"
    assert convert(forest, "--html", str(page), "--json", str(data)).exit_code == 0
    report = json.loads(data.read_text())
    assert report["parity"]["passed"]
    names = [check["name"] for check in report["parity"]["checks"]]
    assert names == ["sample", "precision", "edge-nan", "edge-infinite", "edge-zero", "edge-extreme", "thresholds",
                     "batch-1", "batch-2", "batch-17", "batch-256", "shuffled", "invariance"]  # fmt: skip
    text = page.read_text()
    assert "iris answers as its framework does" in text
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")


def test_a_table_of_words_is_read_from_csv(tmp_path):
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame, labels = trained.people()
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["city"]), remainder="passthrough")
    joblib.dump(make_pipeline(columns, DecisionTreeClassifier(max_depth=4)).fit(frame, labels), tmp_path / "m.pkl")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    result = convert(tmp_path, model="m.pkl", sample="rows.csv", out="models/people/3")
    assert result.exit_code == 0, result.output
    package = read(tmp_path / "models" / "people" / "3")
    assert package.columns == {name: (name,) for name in frame.columns}
    assert package.labels == {"probabilities": ("buys", "leaves")}


def test_a_failed_gate_shows_its_report_and_writes_no_package(forest, monkeypatch):
    monkeypatch.setattr("converters.adapters.scikit_learn.set_missing", lambda *_: False)
    page = forest / "report.html"
    result = convert(forest, "--html", str(page))
    assert "--waive edge-nan:REASON" in failure(result)
    assert "1 of 13 checks failed" in result.stdout
    assert "edge-nan" in page.read_text()
    assert not (forest / "models").exists()


def test_a_waiver_lets_a_failed_check_pass_and_stays_with_the_package(forest, monkeypatch):
    monkeypatch.setattr("converters.adapters.scikit_learn.set_missing", lambda *_: False)
    result = convert(forest, "--waive", "edge-nan:callers send no missing numbers")
    assert result.exit_code == 0, result.output
    assert "waived: edge-nan" in result.stdout
    (waiver,) = read(forest / "models" / "iris" / "1").waivers
    assert (waiver.check, waiver.reason) == ("parity.edge-nan", "callers send no missing numbers")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--waive", "edge-none:because"], "no check has this name; they are sample, precision, edge-nan"),
        (["--passes", "slim,fp32"], "unknown pass 'fp32'; known are slim"),
        (["--passes", "slim,slim"], "a pass is named twice"),
        (["--html", "/no/such/folder/report.html"], "its folder does not exist; name a file"),
    ],
)
def test_an_option_that_cannot_be_followed_is_told_in_a_line(forest, options, told):
    assert told in failure(convert(forest, *options))


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--waive", "edge-nan"], "is not NAME:REASON"), (["--kind", "forest"], "is not one of")],
)
def test_an_option_that_cannot_be_read_is_told_with_the_usage(forest, options, told):
    result = convert(forest, *options)
    assert result.exit_code == 2
    assert told in result.output


@pytest.mark.parametrize(
    "out", ["models/iris", "models/iris/01", "models/iris/9223372036854775808", "models/iris/1\u0663"]
)
def test_a_place_without_a_version_that_a_server_loads_is_refused(forest, out):
    result = convert(forest, out=out)
    assert result.exit_code == 2
    assert "does not end in NAME/VERSION" in result.output


def test_another_package_in_the_place_is_left_alone(forest):
    assert convert(forest).exit_code == 0
    assert "holds package" in str(convert(forest, "--seed", "1").exception)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("model.pkl", b"no pickle", "cannot be loaded"),
        ("model.onnx", b"no graph", "cannot be loaded"),
        ("model.h5", b"", "files of this kind are not known; known are .joblib"),
    ],
)
def test_a_file_that_is_no_model_is_told_in_a_line(forest, name, content, told):
    (forest / name).write_bytes(content)
    assert told in failure(convert(forest, model=name))


def test_a_model_that_does_not_exist_is_told_in_a_line(forest):
    assert "does not exist; name a file, or MODULE:OBJECT" in failure(convert(forest, model="none.joblib"))


@pytest.mark.parametrize("name", ["model.onnx", "model.joblib", "rows.npy", "LICENSE"])
def test_a_file_that_never_ends_is_refused_before_it_is_read(forest, name):
    (forest / name).unlink(missing_ok=True)
    (forest / name).symlink_to("/dev/zero")
    model, options = (name, []) if name.startswith("model") else ("forest.joblib", [])
    if name == "LICENSE":
        options = ["--licence", str(forest / name)]
    assert "is no plain file" in failure(convert(forest, *options, model=model))


def test_a_licence_of_any_length_is_not_read_whole(forest):
    with (forest / "LICENSE").open("wb") as file:
        file.truncate(1 << 40)
    assert "expected at most" in failure(convert(forest, "--licence", str(forest / "LICENSE")))


def test_a_folder_that_is_no_saved_model_is_told_in_a_line(forest):
    (forest / "folder").mkdir()
    assert "is a folder without saved_model.pb" in failure(convert(forest, model="folder"))


def test_a_model_that_code_makes_is_named_by_module_and_object(forest, monkeypatch):
    (forest / "made_here.py").write_text(
        "from sklearn.datasets import load_iris\nfrom sklearn.tree import DecisionTreeClassifier\n"
        "def model():\n    return DecisionTreeClassifier(random_state=0).fit(*load_iris(return_X_y=True))\n"
    )
    monkeypatch.chdir(forest)
    options = ["--sample", "rows.npy", "--out", "models/made/1"]
    result = CliRunner().invoke(command, ["made_here:model", *options])
    assert result.exit_code == 0, result.output
    assert "has no other" in failure(CliRunner().invoke(command, ["made_here:other", *options]))
    assert "module made_nowhere is not found" in failure(CliRunner().invoke(command, ["made_nowhere:model", *options]))


def test_nothing_of_a_pickle_enters_the_package(forest):
    assert convert(forest).exit_code == 0
    for blob in (forest / "models").rglob("*"):
        assert not blob.is_file() or b"sklearn.ensemble" not in blob.read_bytes()
