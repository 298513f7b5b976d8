"""What the README says about options and commands is what the code does."""

from pathlib import Path

import pytest

from tests.support import readme

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


TABLES = {"server": readme.server_table, "model": readme.model_table, "policy": readme.policy_table}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_readme_holds_the_table_of_options(table):
    assert table() in README, "python -m tests.support.readme prints the table"


def test_ci_runs_the_readmes_test_command():
    command = "pip install '.[test]' && pytest"
    assert f"```sh\n{command}\n```" in README
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
