"""What the README says about options and commands is what the code does."""

from pathlib import Path

import pytest

from serving.release.pipeline.definition import read_definition
from tests.support import readme

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


TABLES = {"server": readme.server_table, "model": readme.model_table, "policy": readme.policy_table,
          "pipeline": readme.pipeline_table}  # fmt: skip


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_the_readme_holds_the_table_of_options(table):
    assert table() in README, "python -m tests.support.readme prints the table"


def test_the_readmes_pipeline_is_one(tmp_path):
    text = README[README.index("```toml\nmodel =") :].split("```")[1].removeprefix("toml\n")
    (tmp_path / "pipeline.toml").write_text(text)
    definition = read_definition(tmp_path / "pipeline.toml")
    assert [step.name for step in definition.steps] == ["train", "convert"]


def test_ci_runs_the_readmes_test_command():
    command = "pip install '.[test]' && pytest"
    assert f"```sh\n{command}\n```" in README
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
