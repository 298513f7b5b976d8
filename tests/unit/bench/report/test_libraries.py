import io
import subprocess
import sys

import pytest

from bench.report import libraries, page, tables
from serving.errors import ConfigError
from tests.support import outcomes

REMEDY = r"pip install 'penstock\[bench\]'"


def hide(monkeypatch, name):
    """Make an import fail as it does when a library is absent."""
    for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)


def test_nothing_is_absent_here():
    libraries.check(html=True)


@pytest.mark.parametrize("name", ["rich", "jinja2", "matplotlib"])
def test_an_absent_library_is_named_with_its_remedy_before_anything_is_measured(monkeypatch, name):
    hide(monkeypatch, name)
    with pytest.raises(ConfigError, match=f"need {name}, .*{REMEDY}"):
        libraries.check(html=True)


def test_only_a_page_needs_what_draws_pages(monkeypatch):
    hide(monkeypatch, "matplotlib")
    libraries.check(html=False)


def test_a_page_and_a_table_name_what_is_absent(monkeypatch):
    hide(monkeypatch, "jinja2")
    with pytest.raises(ConfigError, match=REMEDY):
        page.render(outcomes.run_view(), outcomes.context())
    hide(monkeypatch, "rich")
    with pytest.raises(ConfigError, match=REMEDY):
        tables.show(outcomes.run_view(), io.StringIO())


def test_reports_are_imported_without_the_libraries():
    code = (
        "import sys, bench.report.page, bench.report.tables, bench.report.progress, bench.report.jsonl\n"
        "assert not {'matplotlib', 'jinja2', 'rich'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
