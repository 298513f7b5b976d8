"""What is learnt of a model before anybody asks it, by runs on zeros and on random rows, which warm it up too.

The whole way of a batch is rehearsed, with what a pipeline does before the graph and behind it. It knows no request.
"""

import contextlib
import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from serving.batching.arena import Staging
from serving.batching.pace import CHEAP_RUNS, Pace
from serving.batching.sweep import Probe, Sample, sweep
from serving.clock import Clock
from serving.config import PipelineConfig
from serving.errors import LoadError
from serving.execution.memory import available_bytes, resident_bytes
from serving.execution.padding import AnySession, OutputWithoutRowsError, PaddedSession, fixed_rows
from serving.execution.probe import probed, random_rows, zeros
from serving.pipeline.files import Files
from serving.types import Array

if TYPE_CHECKING:
    from serving.pipeline.pipeline import Pipeline

_ONE_ROW_NS_MAX = 300_000_000
"""After so long one row has been timed often enough."""
_log = logging.getLogger(__name__)


class Rehearsal:
    """Runs a model without requests. Lives on the thread that loads it; `name` is for the log.

    `signature` is what clients see: as declared at first, and corrected by what `warm_up` finds out. A pipeline keeps
    buffers for each staging that it was run with, so all runs share one, `staging`, which is the I/O thread's later on.
    """

    def __init__(self, session: AnySession, pipeline: "Pipeline | None", clock: Clock, *, name: str) -> None:
        self.signature = session.signature if pipeline is None else pipeline.signature
        self.staging = Staging(self.signature)
        self._session = session
        self._pipeline = pipeline
        self._clock = clock
        self._name = name
        self._takes_zeros = False
        self._one_row_ns = 0

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run on inputs that preprocessing need not take. Raises what the graph raises."""
        if self._pipeline is None:
            return self._session.run(inputs)
        prepared = self._pipeline.preprocess(inputs, self.staging, is_strict=False)
        answers = self._pipeline.postprocess(self._session.run(prepared), self.staging, inputs)
        return self._pipeline.answered(answers)

    def warm_up(self, pace: Pace) -> None:
        """Run a few times: the first run of a graph is slow, and its outputs tell the truth. Teaches `pace`.

        Raises LoadError when batches of the model are to be padded and its rows do not stand alone.
        """
        was_batchable = self.signature.batchable
        try:
            self.signature = probed(self.signature, self.run)
            self._time_one_row(pace)
        except OutputWithoutRowsError as error:
            raise LoadError(str(error)) from None
        except Exception as error:  # noqa: BLE001 - zeros may be nothing that this model can take; it can still serve
            _log.info("%s: no warm-up, the model does not take zeros: %s", self._name, error)
        else:
            self._takes_zeros = True
        if not self.signature.batchable and isinstance(self._session, PaddedSession):
            raise LoadError(
                "batch_rows_allowed is given, but rows of this model do not stand alone, so padding would change its "
                "answers; leave it out"
            )
        if was_batchable and not self.signature.batchable:
            _log.warning("%s: rows do not stand alone, so batching is off", self._name)
        if (fixed := fixed_rows(self.signature)) > 1:
            text = "%s: a request brings %d of the first dimension; if these are rows, see batch_rows_allowed = [%d]"
            _log.info(text, self._name, fixed, fixed)

    def sweep(self, sizes: Sequence[int]) -> list[Sample]:
        """Measure how long batches of these sizes take; nothing is known of a model that takes no random rows."""
        if not self._takes_zeros:
            return []
        probe = Probe(
            lambda rows: self.run(random_rows(self.signature, rows)),
            self._clock.now_ns, resident_bytes, available_bytes,
        )  # fmt: skip
        try:
            return sweep(probe, sizes, one_row_ns=self._one_row_ns)
        except Exception as error:  # noqa: BLE001 - random numbers may be nothing that this model can take
            _log.info("%s: batches are not measured, a run failed: %s", self._name, error)
            return []

    def _time_one_row(self, pace: Pace) -> None:
        """Learn how long one row takes, so that a cheap model is known to be one from its first request on."""
        row = zeros(self.signature)
        times_ns = [self._clock.now_ns()]
        for _ in range(CHEAP_RUNS):
            self.run(row)
            times_ns.append(self._clock.now_ns())
            if times_ns[-1] - times_ns[0] > _ONE_ROW_NS_MAX:  # it is not cheap, and more runs would only delay the load
                break
        self._one_row_ns = min(end_ns - begin_ns for begin_ns, end_ns in pairwise(times_ns))
        for _ in range(CHEAP_RUNS):
            pace.observe(1, self._one_row_ns)


def pipeline_of(
    config: PipelineConfig, session: AnySession, files: Files, *, allow_user_code: bool
) -> "Pipeline | None":
    """Compose and compile a model's pipeline, None where nothing is declared. Raises LoadError.

    `files` are those that steps may name.
    """
    if config.is_empty:
        return None
    from serving.pipeline.composition import Surroundings  # noqa: PLC0415 - brings numba, which few models need
    from serving.pipeline.pipeline import Pipeline  # noqa: PLC0415

    with contextlib.suppress(Exception):  # a graph that does not take zeros is composed as it declares itself
        session.signature = probed(session.signature, session.run)
    pipeline = Pipeline(config, session.signature, Surroundings(files, allow_user_code), gpu=session.gpu)
    if not isinstance(session, PaddedSession):
        session.outputs_stay = pipeline.reads_on_gpu
    return pipeline
