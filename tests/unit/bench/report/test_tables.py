import dataclasses
import io
import json
import re

import pytest

from bench.report import jsonl, page, summary, tables
from bench.report.views import Probe, Run, RunView, SweepView
from tests.support import outcomes


def shown(view):
    stream = io.StringIO()
    tables.show(view, stream)
    return stream.getvalue()


def test_a_run_shows_its_figures_with_units():
    text = shown(outcomes.run_view(errors={"UNAVAILABLE": 1}))
    for part in ("poisson arrivals, 1,000 requests/s of 1 row, 10 s", "801 us", "1.59 ms", "UNAVAILABLE 40", "210 us",
                 "4.21 rows", "38.4 us", "goodput", "busy 30.0 %"):  # fmt: skip
        assert part in text, part


def test_a_sweep_has_one_line_per_load():
    (table,) = summary.tables(outcomes.sweep_view())
    assert [row[0] for row in table.rows] == [f"{rate:,}/s" for rate in range(500, 5001, 500)]
    assert table.rows[-1][-1] == "client-limited"
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_columns_that_nothing_fills_are_left_out():
    server = outcomes.ServerFigures()
    (table,) = summary.tables(SweepView((Run("a", outcomes.outcome(server=server, slo_ms=None)),)))
    assert table.columns == ("load", "requests/s", "p50", "p99", "p99.9", "errors")


def test_a_knee_shows_every_probe_with_its_verdict():
    (table,) = summary.tables(outcomes.knee_view())
    assert table.rows[0] == ("1", "1,000", "2.04 ms", "met")
    assert [row[3] for row in table.rows].count("too close to tell") == 1


def test_a_comparison_shows_change_interval_pairs_and_meaning():
    ratios, sides = summary.tables(outcomes.comparison_view())
    assert ratios.rows[1] == ("latency p50", "+8.0 %", "+5.0 %", "+11.0 %", "24", "B is 8.0 % slower at p50")
    assert ratios.rows[0][-1] == "no difference shown"
    assert [row[0] for row in sides.rows] == ["A", "B"]


def test_tuning_marks_what_is_recommended():
    (table,) = summary.tables(outcomes.frontier_view())
    (marked,) = table.marked
    assert table.rows[marked][-1] == "recommended"


def test_peers_are_set_against_the_first():
    table, _ = summary.tables(outcomes.peers_view())
    assert [row[2] for row in table.rows] == ["1.00 x", "0.10 x", "0.16 x"]


def test_the_settings_of_each_peer_are_in_the_report():
    view = outcomes.peers_view()
    assert summary.tables(view)[1].rows[1] == ("MLServer", "parallel_workers 0")
    assert "parallel_workers 0" in page.render(view, outcomes.context())
    line = json.loads(jsonl.line_of_result(view, outcomes.context()))
    assert line["settings"]["MLServer"] == "parallel_workers 0"


def test_a_probe_that_was_sent_late_is_shown_and_not_judged():
    view = dataclasses.replace(outcomes.knee_view(), probes=(Probe(1000.0, 9e3, "late"),))
    (table,) = summary.tables(view)
    assert table.rows[0][3] == "not counted: sent late"
    assert "sent late" in page.render(view, outcomes.context())


def test_nothing_answered_shows_dashes():
    text = shown(RunView(Run("run", outcomes.silent("nobody listens"))))
    assert text.startswith("No request of 100 was answered")
    assert "FAILED: The run ended after 1 s, before its time: nobody listens" in text
    assert not re.search(r"\bnan\b", text)


def test_warnings_stand_above_the_tables():
    text = shown(outcomes.run_view(busy=0.95))
    assert text.index("warning: the client was the limit") < text.index("Latency, from the intended moment")


@pytest.mark.parametrize("name", ["[red]name[/red]", "[/]", ":smile:"])
def test_a_name_is_no_markup(name):
    assert name in shown(SweepView((Run(name, outcomes.outcome(duration_s=1.0)),)))


def test_a_name_cannot_steer_the_terminal():
    assert "\x1b" not in shown(SweepView((Run("\x1b[2Jname", outcomes.outcome(duration_s=1.0)),)))


def test_every_view_is_shown():
    for make in outcomes.VIEWS.values():
        assert len(shown(make()).splitlines()) > 4


def test_raw_figures_hold_every_name_of_the_json():
    run = outcomes.run_view().run
    names = {row[0] for row in summary.raw_table(run).rows}
    assert {"throughput_rps", "latency_us.p999", "server.mean_batch_rows", "client_limited"} <= names
    assert len(summary.timeline_table(run).rows) == 40
