import json
import re

import pytest

from bench.peers import environments
from bench.peers.peer import PeerAbsent
from serving.errors import ConfigError

KNOWN = ("penstock", "mlserver", "kserve")


def test_environments_are_named_by_their_peers(tmp_path):
    assert environments.parse([f"mlserver={tmp_path}"], KNOWN) == {"mlserver": tmp_path}


def test_no_options_name_no_environments():
    assert environments.parse([], KNOWN) == {}


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    (tmp_path / "venv").mkdir()
    monkeypatch.chdir(tmp_path)
    assert environments.parse(["kserve=venv"], KNOWN) == {"kserve": tmp_path / "venv"}


def test_a_link_to_an_environment_stays_a_link(tmp_path):
    (tmp_path / "venv").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "venv")
    assert environments.parse([f"kserve={tmp_path}/link"], KNOWN) == {"kserve": tmp_path / "link"}


def test_a_path_may_hold_an_equals_sign(tmp_path):
    (tmp_path / "a=b").mkdir()
    assert environments.parse([f"kserve={tmp_path}/a=b"], KNOWN) == {"kserve": tmp_path / "a=b"}


@pytest.mark.parametrize("option", ["mlserver", "mlserver=", "=/tmp", "", "/opt/venv"])
def test_an_option_without_name_or_path_is_refused(option):
    with pytest.raises(ConfigError, match="expected NAME=PATH"):
        environments.parse([option], KNOWN)


def test_an_unknown_peer_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(ConfigError, match="unknown peer 'mlsever'; did you mean 'mlserver'"):
        environments.parse([f"mlsever={tmp_path}"], KNOWN)


def test_a_peer_named_twice_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="names kserve twice"):
        environments.parse([f"kserve={tmp_path}"] * 2, KNOWN)


def test_a_path_to_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="gone does not exist"):
        environments.parse([f"kserve={tmp_path}/gone"], KNOWN)


def test_a_peer_without_an_environment_is_absent():
    with pytest.raises(PeerAbsent, match=re.escape("add --venv kserve=PATH")):
        environments.python_of("kserve", None)


def test_a_folder_that_is_no_environment_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no virtual environment: it has no bin/python"):
        environments.python_of("kserve", tmp_path)


def test_what_is_installed_has_a_version(environment):
    python = environments.python_of("kserve", environment(f"echo '{json.dumps({'kserve': '0.21.0'})}'"))
    assert environments.versions(python, ["kserve"]) == {"kserve": "0.21.0"}


def test_what_is_missing_makes_a_peer_absent_and_is_named(environment):
    python = environments.python_of("kserve", environment("echo '{}'"))
    with pytest.raises(PeerAbsent, match=r"no kserve and no onnxruntime in its environment; run .* install kserve o"):
        environments.versions(python, ["kserve", "onnxruntime"])


def test_a_real_python_tells_its_versions(tmp_path):
    import sys
    from importlib import metadata
    from pathlib import Path

    assert environments.versions(Path(sys.executable), ["numpy"]) == {"numpy": metadata.version("numpy")}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo of course >&2; exit 3", "ends with status 3, saying: of course"),
        ("exit 1", "ends with status 1, saying: nothing"),
        ("echo hello", "does not run as a Python"),
    ],
)
def test_a_broken_python_is_refused(environment, script, words):
    with pytest.raises(ConfigError, match=words):
        environments.versions(environments.python_of("kserve", environment(script)), ["kserve"])


def test_a_python_that_cannot_be_run_is_refused(environment):
    python = environment("exit 0") / "bin" / "python"
    python.write_text("no program")
    python.chmod(0o755)
    with pytest.raises(ConfigError, match="does not run as a Python"):
        environments.versions(python, ["kserve"])
