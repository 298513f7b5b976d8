"""Options and fixtures of the whole suite."""

import pytest
from hypothesis import settings

from tests.support import graphs
from tests.support.servers import TRANSPORTS, server_thread

settings.register_profile("reproducible", derandomize=True, database=None, deadline=None)
settings.load_profile("reproducible")


def pytest_addoption(parser):
    parser.addoption(
        "--address",
        metavar="HOST:PORT",
        help="Run the conformance suite against this server, which must serve the suite's models.",
    )


@pytest.fixture
def repository(tmp_path):
    """An empty model repository."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture(params=sorted(TRANSPORTS), scope="module")
def transport(request):
    """The options of each transport in turn, for what all of them must do."""
    return TRANSPORTS[request.param]


@pytest.fixture
def affine_server(repository, transport):
    """A server in this process with one model, `affine`: y = 2 x + 1, FP32 [rows, 4]."""
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository, **transport) as server:
        yield server
