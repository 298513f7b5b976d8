"""One server with several models, and one generator that asks one of them at a time: for a bench that compares models.

The generator has the last core of this machine; see `bench.cores`.
"""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import cores, payload
from bench.generator.handle import Generator
from bench.load import penstock
from bench.server_view import ServerView, figures
from bench.slices import ClosedLoop, OpenLoop, Recording, Slice, Target
from serving.transport.client import Client

WARM_UP_S = 0.5


class ServedModels:
    """Runs loads of one-row requests on the models of a server. Used by one thread."""

    def __init__(self, generator: Generator, views: Sequence[ServerView], models: Sequence[str]) -> None:
        self._generator = generator
        self._views = views
        self._models = list(models)

    def run(self, model: str, load: OpenLoop | ClosedLoop) -> Recording:
        """Run a load on a model. Exits when that is cut short, or when a request is not answered."""
        target = self._models.index(model)
        before = self._views[target].snapshot()
        recording = self._generator.run(Slice(load=load, target=target, warm_up_s=WARM_UP_S), lambda _: None)
        if recording.failure is not None or recording.total.errors:
            sys.exit(f"{model}: {recording.failure or dict(recording.total.errors)}")
        recording.server = figures(before, self._views[target].snapshot(), requests=recording.total.sent)
        return recording


@contextlib.contextmanager
def served(models: Path, names: Sequence[str]) -> Iterator[ServedModels]:
    """Serve a model repository, with a calibration of its own, and stand ready to ask the models that are named."""
    with (
        penstock(models, "--calibration-dir", f"{models}/.calibration") as server,
        Client(f"127.0.0.1:{server.port}") as client,
        cores.running_on(cores.for_generator()),
    ):
        views = [ServerView(client, name, host="127.0.0.1", port=server.port) for name in names]
        messages = [
            payload.read(None, view.metadata(), rows=1, seed=0, version="", shapes={}) for view in views
        ]  # fmt: skip
        with Generator([Target("127.0.0.1", server.port)] * len(names), messages) as generator:
            yield ServedModels(generator, views, names)
