import csv

import numpy as np
import pytest

from serving.errors import ConfigError
from serving.scoring.outcome import Output, check_kind, write_outcome

OUTPUTS = [Output("label", ()), Output("scores", (2,), ("no", "yes")), Output("more", (2,)), Output("one", (1,))]
PARTS = [
    [
        np.array(["a", "longer"][: rows]), np.full((rows, 2), 0.1, np.float32),
        np.arange(2 * rows).reshape(rows, 2), np.full((rows, 1), True),
    ]
    for rows in (2, 1)
]  # fmt: skip
COLUMNS = ["label", "scores_no", "scores_yes", "more_0", "more_1", "one"]


def write(path, outputs=OUTPUTS, parts=PARTS):
    write_outcome(path, outputs, lambda: iter(parts), rows=sum(len(part[0]) for part in parts))
    return path


def test_a_csv_has_a_column_per_value_and_the_shortest_numbers(tmp_path):
    with write(tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            COLUMNS,
            ["a", "0.1", "0.1", "0", "1", "true"],
            ["longer", "0.1", "0.1", "2", "3", "true"],
            ["a", "0.1", "0.1", "0", "1", "true"],
        ]


def test_a_parquet_keeps_the_types(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    table = parquet.read_table(write(tmp_path / "a.parquet"))
    assert table.column_names == COLUMNS
    assert [str(field.type) for field in table.schema] == ["string", "float", "float", "int64", "int64", "bool"]
    assert table.column("label").to_pylist() == ["a", "longer", "a"]
    assert table.column("more_1").to_pylist() == [1, 3, 1]


def test_a_npz_holds_the_arrays(tmp_path):
    with np.load(write(tmp_path / "a.npz"), allow_pickle=False) as archive:
        for index, output in enumerate(OUTPUTS):
            np.testing.assert_array_equal(archive[output.name], np.concatenate([part[index] for part in PARTS]))


def test_a_npy_holds_the_one_array(tmp_path):
    path = write(tmp_path / "a.npy", OUTPUTS[2:3], [part[2:3] for part in PARTS])
    np.testing.assert_array_equal(np.load(path, allow_pickle=False), [[0, 1], [2, 3], [0, 1]])


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_the_same_answers_give_the_same_bytes(tmp_path, kind):
    first, second = write(tmp_path / f"a.{kind}"), write(tmp_path / f"b.{kind}")
    assert first.read_bytes() == second.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "outputs", "message"),
    [
        ("a.xlsx", [("y", 1)], "kind '.xlsx' is not known"),
        ("a.npy", [("x", 1), ("y", 1)], "can hold one output and the model has x, y; choose with --output"),
        ("a.csv", [("y", 3)], "output 'y' has 3 dimensions, which no table holds; write a .npz"),
    ],
)
def test_a_kind_that_cannot_hold_the_answers_is_refused(tmp_path, name, outputs, message):
    with pytest.raises(ConfigError, match=message):
        check_kind(tmp_path / name, outputs)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.csv cannot be written"):
        write(tmp_path / "gone" / "a.csv")


def test_a_failure_leaves_what_was_there(tmp_path):
    path = write(tmp_path / "a.csv")
    before = path.read_bytes()

    def chunks():
        yield PARTS[0]
        raise OSError(5, "Input/output error")

    with pytest.raises(ConfigError, match="Input/output error"):
        write_outcome(path, OUTPUTS, chunks, rows=3)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_an_output_that_turns_out_to_be_deep_is_refused_by_a_table(tmp_path):
    with pytest.raises(ConfigError, match=r"output 'y' has rows of shape \[2, 2\]; write a \.npz"):
        write(tmp_path / "a.csv", [Output("y", (2, 2))], [[np.ones((1, 2, 2))]])
    assert list(tmp_path.iterdir()) == []
