import json
from pathlib import Path

import numpy as np
import pytest

from bench.report import jsonl
from serving.errors import ConfigError
from tests.support import outcomes
from tests.support.outcomes import context


def strictly(line):
    """Read JSON, and refuse what only Python takes for JSON."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(line, parse_constant=refuse)


def test_a_run_holds_all_that_scripts_read():
    line = jsonl.line_of_run("run", outcomes.run_view().run, context())
    values = strictly(line)
    assert "\n" not in line
    assert {"throughput_rps", "throughput_rows_per_s", "goodput_rps", "sent", "answered", "errors", "latency_us",
            "client_limited", "server", "machine", "commit", "seed", "scenario"} <= set(values)  # fmt: skip
    assert set(values["latency_us"]) == {"mean", "p50", "p90", "p99", "p999", "max"}
    assert values["at"] == "2025-03-04T05:06:07+00:00"
    assert values["seed"] == 7
    assert values["machine"]["cores_usable"] == 2.0
    assert values["kind"] == "run"
    assert values["server"]["batch_rows"]["4"] == 2400


def test_figures_that_are_not_known_are_null():
    run = outcomes.Run("run", outcomes.silent())
    values = strictly(jsonl.line_of_run("run", run, context(commit=None)))
    assert values["latency_us"]["p99"] is None
    assert values["commit"] is None


def test_values_of_numpy_and_paths_become_json():
    told = context(
        scenario={"rows": np.int64(4), "rate": np.float32("nan"), "payload": Path("rows.npy"), "list": (1, 2)}
    )
    values = strictly(jsonl.line_of_run("run", outcomes.run_view().run, told))
    assert values["scenario"] == {"rows": 4, "rate": None, "payload": "rows.npy", "list": [1, 2]}


@pytest.mark.parametrize("kind", sorted(outcomes.VIEWS))
def test_a_result_is_a_line_without_its_runs(kind):
    values = strictly(jsonl.line_of_result(outcomes.VIEWS[kind](), context()))
    assert values["kind"] == kind
    assert values["result"] is True
    assert not {"run", "runs"} & set(values)


def test_a_knee_s_line_holds_its_interval_and_probes():
    values = strictly(jsonl.line_of_result(outcomes.knee_view(), context()))
    assert (values["rate_rps"], values["low_rps"], values["high_rps"]) == (2960.0, 2850.0, 3080.0)
    assert values["probes"][0]["verdict"] == "passed"


@pytest.mark.parametrize(("append", "expected"), [(False, ["b"]), (True, ["a", "b"])])
def test_a_file_is_replaced_or_goes_on(tmp_path, append, expected):
    path = tmp_path / "runs.jsonl"
    for line in ("a", "b"):
        with jsonl.JsonLines(str(path), append=append) as lines:
            lines.write(line)
    assert path.read_text().splitlines() == expected


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    with jsonl.JsonLines(str(tmp_path / "runs.jsonl")) as lines:
        lines.write("{}")
        assert (tmp_path / "runs.jsonl").read_text() == "{}\n"


def test_a_dash_is_stdout(capsys):
    with jsonl.JsonLines("-") as lines:
        lines.write('{"a": 1}')
    assert capsys.readouterr().out == '{"a": 1}\n'


def test_a_place_that_cannot_be_written_is_refused_on_entry(tmp_path):
    with pytest.raises(ConfigError, match="--json cannot write"), jsonl.JsonLines(str(tmp_path)):
        pytest.fail("it must not begin")


def test_a_name_that_is_not_valid_text_is_still_json():
    run = outcomes.Run("\udcff\n", outcomes.outcome(duration_s=1.0))
    assert "\n" not in jsonl.line_of_run("run", run, context())
