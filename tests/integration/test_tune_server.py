"""Settings on a real server: they are loaded one after the other, and the user's own files stay as they are."""

import pytest

from bench.slices import ClosedLoop, Recording, Slice
from bench.tune import Setting
from bench.tune_server import TuneServer
from serving.errors import ConfigError, RemoteError
from serving.transport.client import Client
from tests.support import graphs

OWN = '# mine\nversion_policy = "all"\n[batching]\nbatch_rows_max = 16\n'


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def models(repository):
    graphs.write_model(repository, "affine", graphs.affine(), config=OWN)
    graphs.write_model(repository, "other", graphs.affine())
    return repository


def test_settings_are_tried_on_a_copy(models):
    before = contents(models)
    slice_ = Slice(load=ClosedLoop(concurrency=1, duration_s=1.0))
    with TuneServer(models, "affine", "--transport", "grpcio") as server:
        assert Setting.of(server.config) == Setting(1, 0, 16)
        seen = []
        measure = server.measuring(lambda slice_: seen.append(slice_) or Recording(slice_))
        assert measure(Setting(2, 1, 4), slice_).failure is None
        with Client(server.address) as client:
            assert client.metadata("affine").name == "affine"
            with pytest.raises(RemoteError, match="NOT_FOUND"):
                client.metadata("other")
        server._toml.parent.joinpath("1").unlink()
        failure = measure(Setting(1, 1, 4), slice_).failure
        assert failure.startswith("1 x 1 threads, 4 rows: ")
        assert seen == [slice_]
        folder = server._toml.parent
    assert not folder.exists()
    assert contents(models) == before


def test_a_server_that_does_not_start_says_why(models):
    with pytest.raises(ConfigError, match=r"did not start on a copy of .*no-such-transport"):
        TuneServer(models, "affine", "--transport", "no-such-transport").__enter__()


def test_a_model_that_is_not_there_is_refused(models):
    with pytest.raises(ConfigError, match="no such folder"):
        TuneServer(models, "none")


def test_a_model_toml_with_a_mistake_is_refused(models):
    (models / "affine" / "model.toml").write_text("[instances]\ncount = 0\n")
    with pytest.raises(ConfigError, match="count = 0, expected at least 1"):
        TuneServer(models, "affine")
