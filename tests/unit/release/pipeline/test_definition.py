"""A pipeline.toml is read whole, or refused with one line that names the file, the place and what to do."""

import pytest

from serving.errors import ConfigError
from serving.release.pipeline.definition import read_definition
from serving.release.pipeline.template import Placeholder

GOOD = """
model = "fraud"
[parameters]
trees = 100
rate = 0.1
fast = true
[steps.data]
command = ["{python}", "{file:data.py}", "{file:rows.csv}", "{out:train.npz}", "{out:held.npz}"]
files = ["lock.txt"]
[steps.train]
command = ["{python}", "{file:train.py}", "{data:train.npz}", "{parameter:trees}", "{out:fraud/1}"]
environment = ["RATE={parameter:rate}", "EMPTY="]
timeout_s = 5
[release]
package = "{train:fraud/1}"
held_out = "{data:held.npz}"
evidence = ["data={data:train.npz}"]
by = "rollout"
"""


def write(folder, text):
    path = folder / "pipeline.toml"
    path.write_text(text)
    return path


def test_a_step_depends_on_what_its_command_names(tmp_path):
    definition = read_definition(write(tmp_path, GOOD))
    data, train = definition.steps
    assert (data.outputs, data.paths, data.inputs) == (
        ("train.npz", "held.npz"),
        ("data.py", "rows.csv", "lock.txt"),
        (),
    )
    assert (train.outputs, train.paths, train.inputs) == (
        ("fraud/1",),
        ("train.py",),
        (Placeholder("data", "train.npz"),),
    )
    assert (train.timeout_s, sorted(train.environment), definition.folder) == (5.0, ["EMPTY", "RATE"], tmp_path)
    assert definition.delivery.package == Placeholder("train", "fraud/1")
    assert (definition.delivery.alias, definition.delivery.against) == ("production", "production")


def test_parameters_are_set_as_the_types_that_they_have(tmp_path):
    definition = read_definition(write(tmp_path, GOOD))
    changed = definition.with_parameters({"trees": "7", "rate": "1", "fast": "false"})
    assert changed.parameters == {"trees": 7, "rate": 1.0, "fast": False}
    assert definition.parameters["trees"] == 100
    for name, text, message in (
        ("trees", "many", "a whole number"),
        ("fast", "no", "true or false"),
        ("tree", "1", "did you mean 'trees'"),
    ):
        with pytest.raises(ConfigError, match=message):
            definition.with_parameters({name: text})


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('model = "fraud"', "", "no model; expected a line such as"),
        ('model = "fraud"', 'model = "a b"', "cannot be a model's name"),
        ('model = "fraud"', "model = 3", "expected the name of the model"),
        ("[parameters]", "[parameter]", "unknown key 'parameter'; did you mean 'parameters'"),
        ("trees = 100", "trees = [1]", "expected text, a number, or true or false"),
        ("rate = 0.1", "rate = nan", "cannot hold this"),
        ("[steps.data]", "[steps.file]", "mean something else"),
        ("[steps.data]", "[steps.check]", "mean something else"),
        ('["lock.txt"]', '"lock.txt"', r"\[steps.data\] files = 'lock.txt', expected a list of a string"),
        ('["lock.txt"]', '[""]', "names neither a program nor a file"),
        ("timeout_s = 5", "timeout = 5", r"\[steps.train\] unknown key 'timeout'; did you mean 'timeout_s'"),
        ("timeout_s = 5", "timeout_s = 0", "expected at least 0.1"),
        ('"{data:train.npz}", "{p', '"{date:train.npz}", "{p', "no step 'date' comes before; did you mean 'data'"),
        ('"{data:train.npz}", "{p', '"{data:tram.npz}", "{p', "step 'data' does not make it; did you mean 'train.npz'"),
        ('"{data:train.npz}", "{p', '"{train:fraud/1}", "{p', r"what a step makes itself is \{out:fraud/1\}"),
        ("{parameter:trees}", "{parameter:tree}", "no such parameter; did you mean 'trees'"),
        ("{out:held.npz}", "{out:../held.npz}", "expected a path below the step's own folder"),
        ("{out:held.npz}", "{out:/held.npz}", "expected a path below the step's own folder"),
        ("{out:held.npz}", "{out:train.npz/x}", "lies in"),
        ("{file:data.py}", "{file}", "or a brace doubled"),
        ('"EMPTY="', '"EMPTY"', "expected NAME=TEXT"),
        ('"EMPTY="', '"EMPTY=\\u0000"', "zero byte"),
        ('package = "{train:fraud/1}"', "", "without package"),
        ('held_out = "{data:held.npz}"', 'held_out = "{file:a\\u0000b}"', "zero byte"),
        ('package = "{train:fraud/1}"', 'package = "fraud/1"', "and nothing else"),
        ('package = "{train:fraud/1}"', 'package = "{file:fraud}"', r"expected \{STEP:PATH\} and nothing else"),
        ("{data:held.npz}", "{data:none.npz}", r"\[release\] held_out \{data:none.npz\}: step 'data' does not make it"),
        ('["data={data:train.npz}"]', '["date={data:train.npz}"]', "expected KIND"),
        ('by = "rollout"', 'by = "chance"', "expected one of person, promotion, rollout"),
        ('by = "rollout"', 'alias = "a b"', "cannot be"),
        ("[steps.data]", "steps.data = ", "not valid TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_file_and_place(tmp_path, before, after, message):
    assert before in GOOD
    path = write(tmp_path, GOOD.replace(before, after, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        read_definition(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "m"', "0 steps"),
        ('model = "m"\nsteps = 1', r"expected a table \[steps\]"),
        ('model = "m"\nsteps.a = 1', r"expected a table \[steps.a\]"),
        ('model = "m"\n[steps.a]', "command of 0 arguments"),
        ('model = "m"\n[steps.a]\ncommand = [""]', "names neither a program"),
    ],
)
def test_a_pipeline_without_work_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_definition(write(tmp_path, text))


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_definition(tmp_path / "pipeline.toml")
