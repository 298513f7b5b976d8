"""A server that serves an alias swaps under load without a failed request, rolls back, and outlives its registry."""

import re
import threading

import numpy as np
import pytest

from serving.errors import ConfigError, RemoteError
from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import registries
from tests.support.registries import OPEN, version, write_package
from tests.support.servers import server_process, server_thread

CLIENTS, SWAPS = 6, 6
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
PRODUCTION = Alias("affine", "production")


@pytest.fixture
def place(tmp_path):
    return registries.filled(tmp_path, 3)


@pytest.fixture
def options(place, tmp_path, transport):
    return {"registry": str(place), "model": ("affine@production",), "registry_cache": str(tmp_path / "cache"),
            "registry_interval_s": 0.02, **transport}  # fmt: skip


def scale_of(client, version=""):
    response, outputs = client.infer("affine", {"x": (Datatype.FP32, ROWS)}, version=version)
    scale = float((outputs["y"][1, 3] - 1) / ROWS[1, 3])
    np.testing.assert_array_equal(outputs["y"], scale * ROWS + 1)
    return scale, response.model_version


def wait_for(client, expected):
    for _ in range(100_000):
        if scale_of(client)[0] == expected:
            return
    raise AssertionError(f"{expected} never came")


class Load:
    """Asks again and again until told to stop."""

    def __init__(self, address, stop):
        self.answers, self.failure = [], None
        self._address, self._stop = address, stop
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            with Client(self._address, timeout_s=30) as client:
                while not self._stop.is_set():
                    scale, number = scale_of(client)
                    assert number == str(int(scale)), "an answer of one version under the number of another"
                    self.answers.append(scale)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.failure = error


def test_no_request_fails_while_the_alias_moves_and_rolls_back(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
        assert scale_of(client) == (3, "3")
        stop = threading.Event()
        loads = [Load(server.address, stop) for _ in range(CLIENTS)]
        with Registry.open(str(place)) as registry:
            for swap in range(SWAPS):
                if swap % 3 == 2:
                    sequence = registry.rollback(PRODUCTION).facts["sequence"]
                else:
                    sequence = 1 + swap % 2
                    registry.promote(version(sequence), "production", gate=OPEN)
                wait_for(client, sequence)
        stop.set()
        for load in loads:
            load.thread.join(30)
        assert [load.failure for load in loads] == [None] * CLIENTS
        assert {scale for load in loads for scale in load.answers} == {1, 2, 3}
        assert server.call(lambda: server.in_flight) == 0


def test_the_one_before_stays_warm_and_a_request_may_name_it(place, tmp_path, options):
    with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
        with Registry.open(str(place)) as registry:
            registry.promote(version(1), "production", gate=OPEN)
        wait_for(client, 1)
        assert scale_of(client, "3") == (3, "3")
        assert scale_of(client, "1") == (1, "1")
        assert client.metadata("affine").versions == ["1", "3"]


def test_a_registry_that_goes_away_and_a_package_that_does_not_load_change_nothing(place, tmp_path, options):
    with Registry.open(str(place)) as registry:
        registry.push(write_package(tmp_path / "bad", 7, model=b"not a model"))
    with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
        with Registry.open(str(place)) as registry:
            registry.promote(version(4), "production", gate=OPEN)
            registry.promote(version(2), "production", gate=OPEN)
        wait_for(client, 2)
        place.rename(tmp_path / "away")
        server.complete(server.server._look_at_aliases(server.server._aliases))
        assert scale_of(client) == (2, "2")
    with server_thread(tmp_path / "none", **options) as server, Client(server.address) as client:
        assert scale_of(client) == (2, "2"), "a restarted server serves from its cache"


def test_a_server_whose_alias_names_nothing_is_not_ready_and_says_why(place, tmp_path, options):
    options["model"] = ("affine@nothing",)
    with server_thread(tmp_path / "none", **options) as server:
        assert server.call(server.server.why_not_ready) == "no model has a ready version"
        with Registry.open(str(place)) as registry:
            registry.promote(version(1), "nothing", gate=OPEN)
        server.wait_until(lambda: server.server.why_not_ready() == "")


def test_a_models_settings_come_from_its_folder_beside(tmp_path, options):
    (tmp_path / "models" / "affine").mkdir(parents=True)
    (tmp_path / "models" / "affine" / "model.toml").write_text("[batching]\nbatch_rows_max = 1")
    with server_thread(tmp_path / "models", **options) as server, Client(server.address) as client:
        with pytest.raises(RemoteError) as refused:
            scale_of(client)
        assert "batch_rows_max = 1" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ("affine",)}, "expected NAME@ALIAS"),
        ({"model": ("affine/1",)}, "expected NAME@ALIAS"),
        ({"model": ("affine@a", "affine@b")}, "by two aliases"),
        ({"registry": "s3://x"}, r"registry\.toml"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_the_start(tmp_path, options, changes, message):
    with pytest.raises(ConfigError, match=message), server_thread(tmp_path / "none", **options | changes):
        pass


def test_the_command_serves_an_alias_and_says_which_package(place, tmp_path):
    arguments = ["--registry", str(place), "--model", "affine@production", "--registry-cache", str(tmp_path / "cache")]
    with server_process(tmp_path / "none", *arguments) as server:
        assert server.wait_for_log(r"affine@production: serving package 3, sha256:")
        assert any(re.search("serving 1 model versions", line) for line in server.log)
        with Client(server.address) as client:
            assert scale_of(client) == (3, "3")
