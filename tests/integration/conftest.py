"""A server for clients that nobody here wrote, on each transport in turn."""

import pytest

from tests.support import graphs
from tests.support.servers import server_thread

WINDOW = "[batching]\nmode = 'window'\nqueue_delay_us_max = 60_000_000\n"


@pytest.fixture(scope="module")
def stock_server(transport, tmp_path_factory):
    """Serves `affine`, y = 2 x + 1; `echo`, y = x of any width; `waits`, `affine` that waits a minute for a full batch;
    `slow`, [rows, 512], which computes 256 rows in some tenths of a second."""
    models = tmp_path_factory.mktemp("models")
    graphs.write_model(models, "affine", graphs.affine())
    graphs.write_model(models, "echo", graphs.open_inner())
    graphs.write_model(models, "waits", graphs.affine(), config=WINDOW)
    graphs.write_model(models, "slow", graphs.slow(layers=100))
    with server_thread(models, **transport) as server:
        yield server
