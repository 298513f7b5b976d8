import re
from html.parser import HTMLParser

import pytest

from bench.report import page
from bench.report.views import KneeView, PeersView, Run, RunView, SweepView
from bench.slices import ServerFigures
from serving.errors import ConfigError
from tests.support import outcomes
from tests.support.outcomes import context

HOSTILE = "<script>alert('$x_{1}$')</script>&\"'_[red]"
FIGURES = {
    "run": {"distribution", "timeline", "stages", "batches"},
    "sweep": {"latency-throughput", "throughput", "distribution", "batches", "stages"},
    "knee": {"knee", "latency-throughput", "distribution"},
    "compare": {"comparison", "distribution", "stages"},
    "tune": {"frontier"},
    "peers": {"peers", "distribution", "stages"},
}


class Reader(HTMLParser):
    """Reads a page: its elements, their attributes and its text."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    @property
    def figures(self):
        return {value.removeprefix("plot-") for tag, name, value in self.attributes if tag == "figure" and name == "id"}


@pytest.fixture(scope="module", params=sorted(outcomes.VIEWS))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def text(kind):
    return page.render(outcomes.VIEWS[kind](), context())


def test_every_promised_figure_is_there(kind, text):
    assert Reader(text).figures == FIGURES[kind]
    assert Reader(text).tags.count("svg") == len(FIGURES[kind])


def test_a_page_needs_nothing_from_elsewhere(text):
    reader = Reader(text)
    assert {"script", "link", "img", "iframe", "object", "image", "base"}.isdisjoint(reader.tags)
    for tag, name, value in reader.attributes:
        if name in {"src", "href", "srcset", "data", "action", "xlink:href"}:
            assert value.startswith("#"), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
    assert "@import" not in text
    assert "url(http" not in text
    assert "url(//" not in text


def test_every_colour_of_a_figure_is_one_that_the_page_defines(text):
    assert "var(--ink)" in text
    svg = text[text.index("<svg") : text.rindex("</svg>")]
    assert "#0" not in svg.replace("url(#0", "").replace('href="#0', ""), "a stand-in was not replaced"
    used = {part.partition(")")[0] for part in text.split("var(--")[1:]}
    defined = {part.partition(":")[0] for part in text.split("--")[1:] if ":" in part[:24]}
    assert used <= defined


def test_the_heading_answers_before_the_command_machine_and_commit_and_then_the_figures(text):
    order = ("<h1>", "penstock bench run --model", "Example CPU", "0123456789abcdef", 'id="summary"', 'id="plots"')
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_raw_figures_are_folded_away():
    reader = Reader(page.render(outcomes.sweep_view(), context()))
    assert reader.tags.count("details") == 10
    assert "latency_us.p999" in reader.text
    assert "server.cpu_us_per_request" in reader.text
    assert ("details", "open", None) not in reader.attributes


@pytest.mark.parametrize("name", [HOSTILE, "模型\nbreak\x1b[31m\x00\udcff", "x" * 500, ""])
def test_a_name_is_text_wherever_it_is_shown(name):
    run = Run(name, outcomes.outcome(duration_s=0.5, errors={name: 1}, failure=name))
    told = context(command=name, subject=name, scenario={name: name})
    for view in (RunView(run), PeersView((run, run), {name: name})):
        text = page.render(view, told)
        text.encode("utf-8")
        assert "<script" not in text
        assert "\x1b" not in text
        assert "script" not in Reader(text).tags


def test_a_hostile_name_is_readable_in_the_text_and_in_the_figures():
    reader = Reader(page.render(outcomes.comparison_view("A", "<b>$x^{$"), context()))
    assert "<b>$x^{$ is 8.0 % slower at p50" in reader.text
    assert "change from A to <b>$x^{$" in reader.text


def test_a_name_that_begins_with_an_underscore_is_in_the_legend():
    names = ("_hidden", "shown")
    view = SweepView(tuple(Run(name, outcomes.outcome(duration_s=0.5, server=ServerFigures())) for name in names))
    text = page.render(view, context())
    distribution = text[text.index('id="plot-distribution"') :]
    assert "_hidden</text>" in distribution[: distribution.index("</svg>")]


def test_a_run_without_answers_is_a_page_that_says_so():
    text = page.render(RunView(Run("run", outcomes.silent())), context())
    reader = Reader(text)
    assert reader.figures == set()
    assert "No request of 100 was answered" in reader.text
    assert not re.search(r"\bnan\b", reader.text.lower())
    assert ("p", "class", "notice failure") in reader.attributes


@pytest.mark.parametrize(
    "view",
    [
        SweepView((Run("a", outcomes.silent()), Run("b", outcomes.silent()))),
        SweepView(()),
        PeersView((Run("a", outcomes.silent()),), {"b": "absent"}),
        KneeView(objective_ms=1.0, rate_rps=None, low_rps=None, high_rps=None, probes=(), ended="no time"),
        outcomes.FrontierView(()),
        outcomes.ComparisonView(name_a="A", name_b="B", metrics={"latency p99": outcomes.Ratio(*[float("nan")] * 3)}),
    ],
)  # fmt: skip
def test_a_result_without_figures_is_still_a_page(view):
    assert Reader(page.render(view, context())).figures == set()


def test_a_failure_stands_above_all_figures():
    text = page.render(outcomes.run_view(failure="the server closed the connection"), context())
    assert text.index("the server closed the connection") < text.index('id="summary"')
    assert 'class="notice failure"' in text


def test_a_limited_client_is_a_warning_with_a_remedy():
    text = page.render(outcomes.run_view(busy=0.97), context())
    assert "the client was the limit: it was busy 97.0 % of the time" in text
    assert "Lower the rate" in text
    assert 'class="notice warning"' in text


def test_a_mixed_sweep_has_no_axis_of_loads_but_is_drawn():
    view = SweepView((Run("open", outcomes.outcome()), Run("closed", outcomes.outcome(concurrency=4))))
    assert Reader(page.render(view, context())).figures == {"latency-throughput", "distribution", "stages"}


def test_the_recommended_model_toml_is_in_the_page():
    assert "[instances]\ncount = 2" in Reader(page.render(outcomes.frontier_view(), context())).text


def test_the_same_result_is_the_same_page():
    assert page.render(outcomes.run_view(duration_s=1.0), context()) == page.render(
        outcomes.run_view(duration_s=1.0), context()
    )


def test_a_page_is_written(tmp_path):
    page.check_place(tmp_path / "report.html")
    page.write(tmp_path / "report.html", outcomes.run_view(), context())
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_place_that_cannot_be_written_is_refused_before_and_after(tmp_path):
    for path in (tmp_path, tmp_path / "absent" / "report.html"):
        with pytest.raises(ConfigError, match="--html cannot write"):
            page.check_place(path)
        with pytest.raises(ConfigError, match="--html cannot write"):
            page.write(path, SweepView(()), context())
