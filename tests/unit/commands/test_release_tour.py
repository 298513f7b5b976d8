"""The parts of the release tour; the whole of it is a slow test of integration."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from serving.commands import quickstart
from serving.commands.release_tour import folder, world
from serving.commands.release_tour.evidence import WANTED, check_history
from serving.commands.release_tour.files import data
from serving.commands.release_tour.world import Forms, append_rows, load, write_rows
from serving.errors import ConfigError
from serving.registry.record import GENESIS, Record
from serving.release.pipeline.definition import read_definition
from serving.release.policy import policy_for


def record(kind, facts):
    return Record(1, "2026-01-01T00:00:00.000+00:00", "ada", kind, "digits", {**facts, "more": 1}, GENESIS)


LEDGER = [record(kind, facts) for kind, facts in WANTED]


def test_a_ledger_that_tells_of_every_station_is_accepted():
    between = [each for wanted in LEDGER for each in (record("note", {}), wanted)]
    check_history(between)


@pytest.mark.parametrize("missing", range(len(WANTED)))
def test_a_ledger_that_lacks_a_station_is_refused(missing):
    with pytest.raises(ConfigError, match="the tour went wrong"):
        check_history(LEDGER[:missing] + LEDGER[missing + 1 :])


def test_a_ledger_in_another_order_is_refused():
    with pytest.raises(ConfigError, match="the tour went wrong"):
        check_history(reversed(LEDGER))


def test_the_new_scanner_is_fainter_and_a_pixel_to_the_right():
    page = np.zeros((1, 64), np.float32)
    page[0, [8, 15]] = 10.0  # the first and the last pixel of the second line
    rescanned = Forms(page, np.array([3])).rescanned()
    assert np.flatnonzero(rescanned.scans).tolist() == [9]
    assert rescanned.scans[0, 9] == 6.0


def test_no_form_is_both_in_the_archive_and_coming_in():
    archive, incoming = load()
    assert len(archive.digits) == world.ARCHIVE_ROWS
    assert len(archive.digits) + len(incoming.digits) == 1_797
    both = np.concatenate([archive.scans, incoming.scans])
    assert len(np.unique(both, axis=0)) == len(both)


def split(path, folder, window):
    names = [str(folder / name) for name in ("train.npz", "reference.npz", "held_out.npz", "facts.json")]
    data.main(str(path), str(window), *names)
    return [set(map(bytes, np.load(name)["features"])) for name in names[:3]], json.loads(
        (folder / "facts.json").read_text()
    )


def test_a_row_stays_where_it_went_when_rows_are_added(tmp_path):
    archive, _ = load()
    path = tmp_path / "rows.csv"
    write_rows(path, archive)
    before, facts = split(path, tmp_path, 100_000)
    append_rows(path, archive.rescanned())
    after, _ = split(path, tmp_path, 100_000)
    assert facts["rows"] == world.ARCHIVE_ROWS == sum(map(len, before))
    assert all(old < new for old, new in zip(before, after, strict=True))
    assert not after[0] & after[2]
    assert not after[0] & after[1]


def test_the_newest_rows_are_taken(tmp_path):
    archive, _ = load()
    path = tmp_path / "rows.csv"
    write_rows(path, archive)
    append_rows(path, archive.rescanned())
    newest, facts = split(path, tmp_path, world.ARCHIVE_ROWS)
    assert facts["rows"] == world.ARCHIVE_ROWS
    assert set().union(*newest) == set(map(bytes, archive.rescanned().scans))


def test_the_folder_holds_a_pipeline_and_a_policy_that_can_be_read(tmp_path):
    folder.check_is_new(tmp_path / "new")
    folder.fill(tmp_path / "new", "digits", load()[0])
    definition = read_definition(tmp_path / "new" / "pipeline.toml")
    files = {path for step in definition.steps for path in step.paths}
    assert all((tmp_path / "new" / path).is_file() for path in files)
    assert policy_for(tmp_path / "new" / "registry", "digits").quality.margin == 0.05
    with pytest.raises(ConfigError, match="is not empty; name another folder"):
        folder.check_is_new(tmp_path / "new")


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--folder .* cannot be used"):
        folder.check_is_new(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be written"):
        folder.fill(tmp_path / "file" / "x", "digits", load()[0])


@pytest.mark.parametrize(
    "arguments",
    [["--kind", "release", "--burst-s", "1"], ["--kind", "release", "--models", "x"], ["--folder", "x"]],
)
def test_an_option_that_means_nothing_for_a_kind_is_refused(arguments):
    result = CliRunner().invoke(quickstart.command, arguments)
    assert result.exit_code == 2
    assert "means nothing with --kind" in result.stderr
