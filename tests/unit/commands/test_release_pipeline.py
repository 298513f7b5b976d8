"""`penstock registry pipeline` as it is typed, against real registries and servers in this process."""

import json
import threading
import time
import urllib.request

import numpy as np
import pytest
from click.testing import CliRunner

from serving.commands import release_pipeline
from serving.commands.registry import group
from serving.errors import ConfigError, RegistryAway
from serving.registry.client import Registry
from serving.transport.client import Client
from serving.transport.webhook import SIGNATURE_HEADER, sign
from serving.types import Datatype
from tests.support import graphs, release_pipelines, trials
from tests.support.release_pipelines import runs_of, two_steps
from tests.support.servers import server_thread

FACTS = {
    "model": "affine",
    "version": "1",
    "subject": "rows",
    "evidence": 5.0,
    "rows": 700,
    "features": [{"name": "x"}],
}


@pytest.fixture
def penstock(tmp_path):
    """Run a verb of pipelines on the registry beside them."""

    def run(*arguments, status=0):
        variables = {"PENSTOCK_REGISTRY": str(tmp_path / "registry"), "PENSTOCK_WHO": "ada"}
        result = CliRunner().invoke(group, ["pipeline", *map(str, arguments)], env=variables)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result

    return run


def history(folder, kind):
    with Registry.open(str(folder / "registry")) as registry:
        return [record for record in registry.history() if record.kind == kind]


# ---- run -----------------------------------------------------------------------------------------------------------


def test_a_run_shows_its_steps_and_how_it_ended(penstock, tmp_path):
    lines = penstock("run", two_steps(tmp_path), "--reason", "the first").stdout.splitlines()
    assert lines[0] == "run 1 of affine"
    assert [line.split()[:2] for line in lines[1:3]] == [["shout", "ran,"], ["join", "ran,"]]
    assert lines[3] == "run 1: made, 2 steps, and no [release]"
    assert history(tmp_path, "run")[0].facts["reason"] == "the first"
    assert "kept, nothing has changed since run 1" in penstock("run", tmp_path / "pipeline.toml").stdout


def test_a_run_speaks_json_and_nothing_else(penstock, tmp_path):
    facts = json.loads(penstock("run", two_steps(tmp_path), "--json", "-").stdout)
    assert (facts["run"], facts["outcome"], facts["package"]) == (1, "made", None)
    assert facts["head"] == facts["records"][-1]["digest"]
    assert [record["kind"] for record in facts["records"]] == ["run", "step", "step", "run"]


def test_parameters_and_the_workplace_are_given_by_options(penstock, tmp_path):
    file = two_steps(tmp_path)
    penstock("run", file, "--set", "word=z=z", "--work", tmp_path / "elsewhere")
    (joined,) = (tmp_path / "elsewhere" / "steps" / "join").glob("*/out/a/joined.txt")
    assert joined.read_text() == "HELLO\nz=z\n"
    assert not (tmp_path / ".penstock").exists()
    penstock("run", file)
    assert (tmp_path / ".penstock" / "steps").exists()


def test_a_package_that_is_refused_gives_a_status(penstock, tmp_path, monkeypatch):
    file = release_pipelines.release(tmp_path)
    (tmp_path / "registry" / "policy.toml").write_text('[evidence]\nlicences = ["MIT"]')
    monkeypatch.setattr(release_pipeline, "check_tools", trials.tools)
    assert "refused, affine/1 may not be promoted: licence: fail" in penstock("run", file, status=1).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.toml"], "No such file"),
        (["run", "pipeline.toml", "--set", "x=1"], "unknown parameter 'x'; known: word"),
        (["watch", "none.toml"], "No such file"),
        (
            ["watch", "pipeline.toml", "--listen", "127.0.0.1:0", "--listen-key", "none"],
            "--listen-key none cannot be read",
        ),
    ],
)
def test_a_mistake_is_one_clear_error(penstock, tmp_path, monkeypatch, arguments, message):
    two_steps(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        penstock(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "x"], "expected NAME=VALUE"),
        (["--listen", "8003"], "expected HOST:PORT"),
        (["--listen", "0.0.0.0:8003"], "could begin runs"),
        (["--listen", "[::]:8003"], "could begin runs"),
        (["--listen", "example.org:8003"], "could begin runs"),
        (["--interval-s", "nan"], "--interval-s nan: expected a number"),
        (["--again-s", "nan"], "--again-s nan: expected a number"),
    ],
)
def test_an_option_that_cannot_be_read_is_a_usage_error(penstock, tmp_path, arguments, message):
    assert message in penstock("watch", two_steps(tmp_path), *arguments, status=2).stderr


@pytest.mark.parametrize(
    ("text", "is_signed", "place"),
    [
        ("127.0.0.1:8003", False, ("127.0.0.1", 8003)),
        ("localhost:0", False, ("localhost", 0)),
        ("[::1]:8003", False, ("::1", 8003)),
        ("0.0.0.0:8003", True, ("0.0.0.0", 8003)),  # noqa: S104 - what is posted there has to be signed
    ],
)
def test_alarms_are_taken_from_this_machine_or_signed(text, is_signed, place):
    assert release_pipeline._place(text, is_signed=is_signed) == place


# ---- watch ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def drifted(repository):
    """A server whose only model, `affine`, gets rows that are nothing like those of its profile."""
    from serving.statistics.profile import ReferenceProfile

    usual = np.random.default_rng(0).normal(size=(5_000, 4)).astype(np.float32)
    profile = ReferenceProfile.of_tensors({"x": usual}, {"y": 2 * usual + 1}).to_bytes()
    folder = graphs.write_model(repository, "affine", graphs.affine())
    (folder / "profile.npz").write_bytes(profile)
    with server_thread(repository) as server:
        with Client(server.address) as client:
            for _ in range(10):
                client.infer("affine", {"x": (Datatype.FP32, usual[:200] + 3)})
        yield server


def test_an_alarm_of_a_server_starts_one_run_and_is_recorded(penstock, tmp_path, drifted):
    file = two_steps(tmp_path)
    shown = penstock("watch", file, "--address", drifted.address, "--interval-s", "0.1", "--count", "1").stdout
    assert "affine/1: rows have drifted, evidence 10^" in shown
    (alarm,) = history(tmp_path, "drift")
    assert (alarm.facts["served"], alarm.facts["source"]) == ("1", drifted.address)
    begin = history(tmp_path, "run")[0]
    assert begin.facts.items() >= {"trigger": "drift", "drift": alarm.position}.items()
    assert runs_of(tmp_path, "joined") == 1


def test_an_alarm_that_lasts_starts_another_run_only_after_the_time(penstock, tmp_path, drifted):
    file = two_steps(tmp_path)
    options = ["watch", file, "--address", drifted.address, "--interval-s", "0.1"]
    penstock(*options, "--count", "1")
    watcher = release_pipeline._Watcher(
        release_pipeline.Source(file, {}, tmp_path / "work"), "affine", release_pipeline.Connect(drifted.address, None),
        lambda **_: release_pipelines.open_registry(tmp_path), None, again_s=3600.0,
    )  # fmt: skip
    watcher.turn(0.0)
    assert (watcher.runs, len(history(tmp_path, "drift"))) == (0, 1)
    watcher.again_s = 1e-6
    watcher.turn(0.0)
    assert (watcher.runs, len(history(tmp_path, "drift"))) == (1, 2)


def test_a_registry_that_is_away_is_asked_again_only_after_the_interval(tmp_path, drifted, monkeypatch, capsys):
    def away(**_):
        raise RegistryAway("the registry is away")

    source = release_pipeline.Source(two_steps(tmp_path), {}, tmp_path / "work")
    server = release_pipeline.Connect(drifted.address, None)
    watcher = release_pipeline._Watcher(source, "affine", server, away, None, again_s=3600.0)
    waited = []
    monkeypatch.setattr(release_pipeline.time, "sleep", waited.append)
    watcher.turn(30.0)
    assert (waited, watcher.runs) == ([30.0], 0)
    assert "the registry is away" in capsys.readouterr().err


def test_an_alarm_that_lasts_does_not_hide_another_one_that_is_posted(penstock, tmp_path, drifted):
    file = two_steps(tmp_path)
    options = ["watch", file, "--address", drifted.address, "--interval-s", "0.1"]
    penstock(*options, "--count", "1")
    facts = {**FACTS, "version": "1", "subject": "errors"}
    source, server = (
        release_pipeline.Source(file, {}, tmp_path / "work"),
        release_pipeline.Connect(drifted.address, None),
    )
    with release_pipeline.AlarmListener("127.0.0.1", 0) as listener:
        post(listener.address, b"", facts)
        watcher = release_pipeline._Watcher(
            source, "affine", server, lambda **_: release_pipelines.open_registry(tmp_path), listener, again_s=3600.0
        )
        watcher.turn(1.0)
    assert [record.facts["subject"] for record in history(tmp_path, "drift")] == ["rows", "errors"]


def test_a_run_that_fails_is_told_and_the_watch_goes_on(penstock, tmp_path, drifted):
    file = two_steps(tmp_path)
    (tmp_path / "words.txt").unlink()
    options = ["--interval-s", "0.1", "--again-s", "0.001", "--count", "2"]
    result = penstock("watch", file, "--address", drifted.address, *options, status=1)
    assert result.stderr.count("penstock: step 'shout'") == 2


def test_a_posted_alarm_starts_a_run_if_its_key_and_model_are_ours(penstock, tmp_path, monkeypatch):
    file, key = two_steps(tmp_path), b"a key of sixteen bytes"
    (tmp_path / "key").write_bytes(key)
    posted = threading.Event()

    class Listening(release_pipeline.AlarmListener):
        def __enter__(self):
            super().__enter__()
            for facts in ({"strange": 1}, {**FACTS, "model": "other"}, FACTS):
                post(self.address, key, facts)
            posted.set()
            return self

    monkeypatch.setattr(release_pipeline, "AlarmListener", Listening)
    options = ["--listen", "127.0.0.1:0", "--listen-key", tmp_path / "key", "--interval-s", "0.1", "--count", "1"]
    result = penstock("watch", file, "--address", "127.0.0.1:1", *options)
    assert posted.is_set()
    assert "no alarm of drift that this version reads" in result.stderr
    assert result.stderr.count("no server answers at 127.0.0.1:1") == 1
    (alarm,) = history(tmp_path, "drift")
    assert (alarm.facts["source"], alarm.facts["feature"]) == ("webhook", "x")


def post(address, key, facts):
    body = json.dumps(facts).encode()
    headers = {SIGNATURE_HEADER: sign(key, int(time.time()), body)}
    with urllib.request.urlopen(urllib.request.Request(f"http://{address}/", body, headers)) as answer:
        assert answer.status == 202


def test_an_alarm_about_a_package_of_the_registry_is_part_of_its_lineage(penstock, tmp_path, drifted):
    file = two_steps(tmp_path)
    with release_pipelines.open_registry(tmp_path) as registry:
        registry.push(trials.write_sound(tmp_path / "1"))
    penstock("watch", file, "--address", drifted.address, "--interval-s", "0.1", "--count", "1")
    with release_pipelines.open_registry(tmp_path) as registry:
        after = registry.lineage(registry.packages()[0].version).after
    assert [record.kind for record in after] == ["push", "drift"]
