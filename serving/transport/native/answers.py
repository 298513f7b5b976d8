"""From the outputs of a batch to the outboxes of the connections that asked for them.

All answers of a group are written by one call of the encoder, and go to each connection as one stretch of bytes. Large
ones go one by one instead, as views of the outputs.
"""

import logging

import numpy as np
from numpy.typing import NDArray

from serving.batching.entries import Result
from serving.dataplane import DataPlane
from serving.errors import InternalError, Overloaded, ServingError
from serving.transport.codec import encode_answer
from serving.transport.native.blocks import error_block
from serving.transport.native.calls import prefixed
from serving.transport.native.core import Core
from serving.transport.native.group import Origin, RequestGroup
from serving.types import Array, Datatype, InferAnswer, OutputTensor
from serving.wire.answer_blocks import as_array
from serving.wire.records import (
    R_ID_AT,
    R_ID_LENGTH,
    R_OUTPUT,
    R_OUTPUT_COUNT,
    R_ROW,
    R_ROWS,
    R_STREAM,
    R_STREAM_GENERATION,
)
from serving.wire.response import ANSWER_COLUMNS, D_ROW_BYTES, TOO_LONG, encode, fill, output_shapes
from serving.wire.settling import AFTER_BYTES, BEFORE_BYTES, G_STOPPED, SEGMENT_COLUMNS, settle_segments

LARGE_ANSWER_BYTES = 65_536
"""Answers with more bytes of outputs are handed on without copying these."""

SHAPES_MAX = 64
"""Shapes of outputs that are remembered for a servable."""

_SCRATCH_BYTES = 1 << 20
_SCRATCH_BYTES_KEPT = 16 << 20

_TOO_MUCH_UNSENT = Overloaded("too many answers wait for clients to read them", retry_after_ms=0)
"""What an outbox has answered in place of outputs; here it is only counted."""

_log = logging.getLogger(__name__)


class Answers:
    """Settles groups, see `group.Settling`. Lives on the I/O thread."""

    def __init__(self, core: Core, data_plane: DataPlane) -> None:
        self.streams = core.state.streams
        self.now_ns = core.now_ns
        self._core = core
        self._data_plane = data_plane
        self.groups: dict[int, RequestGroup] = {}  # by number: those with requests that are not settled
        self._last_number = 0
        self._counting: NDArray[np.int64] = np.arange(1)
        self._out: NDArray[np.uint8] = np.empty(_SCRATCH_BYTES, np.uint8)
        self._answers: NDArray[np.int64] = np.empty((256, ANSWER_COLUMNS), np.int64)
        self._segments: NDArray[np.int64] = np.empty((64, SEGMENT_COLUMNS), np.int64)

    @property
    def deaths(self) -> int:
        """See `group.Settling`."""
        return self._core.deaths

    def next_number(self) -> int:
        """Return a number for a new group."""
        self._last_number += 1
        return self._last_number

    def reach(self, requests: int) -> None:
        """Be prepared for groups whose requests are numbered up to this."""
        if self._counting.size < requests:
            self._counting = np.arange(requests)

    def settle(self, group: RequestGroup, result: Result) -> None:
        """See `group.Settling`."""
        error = result if isinstance(result, ServingError) else None
        unsent: list[int] = []
        try:
            if not isinstance(result, ServingError):
                unsent = self._answer(group, result)
                _remember(group, result)
        except ServingError as refusal:
            error = refusal
        except Exception:  # noqa: BLE001 - a mistake of ours must not keep permits, rows and the servable for ever
            _log.exception("a group could not be answered")
            error = InternalError()
        try:
            if error is not None:
                self._refuse(group, error)
        finally:
            self._leave(group, error, unsent)

    def _answer(self, group: RequestGroup, outputs: list[Array]) -> list[int]:
        """Answer every request of a part of a group by its rows of the outputs.

        Returns how many of each segment got an error instead, because their connection has too much unsent. Raises
        InternalError when protobuf could not hold one of the answers; nothing is written then.
        """
        signature = group.origin.servable.signature
        is_whole = group.requests == 1 and signature.batchable and not _follow_rows(outputs, group.rows)
        if is_whole or sum([output.nbytes for output in outputs]) > LARGE_ANSWER_BYTES * group.requests:
            return self._answer_apart(group, outputs, is_whole=is_whole)
        chosen = self._counting[group.first : group.last]
        shapes, bytes_per_row = self._shapes(group, outputs)
        if not self._encode(group, chosen, shapes):
            raise InternalError()
        for index, (spec, output) in enumerate(zip(signature.outputs, outputs, strict=True)):
            if spec.datatype is Datatype.BYTES:  # nobody has asked for it, or the request would not be here
                continue
            contents = np.ascontiguousarray(output).reshape(-1).view(np.uint8)
            is_filled = fill(self._answers, chosen.size, index, bytes_per_row[index], contents, self._out)
            assert is_filled, "bug: an output has less rows than its batch"
        unsent = self._write(group, chosen)
        if self._out.size > _SCRATCH_BYTES_KEPT:
            self._out = np.empty(_SCRATCH_BYTES, np.uint8)
        return unsent

    def _write(self, group: RequestGroup, chosen: NDArray[np.int64]) -> list[int]:
        """Hand the encoded answers of a group to the outboxes; returns what `_answer` does."""
        origin, state, segments = group.origin, self._core.state, group.segments()
        if len(segments) > len(self._segments):
            self._segments = np.empty((2 * len(segments), SEGMENT_COLUMNS), np.int64)
        table, first = self._segments, group.first
        table[: len(segments), :G_STOPPED] = [
            (-1 if part.connection.is_closed else part.connection.slot, part.first - first, part.last - first)
            for part in segments
        ]
        settle_segments(
            origin.requests, chosen, self._answers, state.connections, state.streams, state.shared, self._out, table,
            len(segments),
        )  # fmt: skip
        unsent, rows = [0] * len(segments), table[: len(segments)].tolist()
        for segment, (_, _, _, _, begin, end) in zip(segments, rows, strict=True):
            if begin < end:
                segment.connection.outbox.add_settled(self._out[begin:end].tobytes())
        self._core.mark_all([part.connection for part in segments if not part.connection.is_closed])
        for k, (_, _, last, stopped, _, _) in enumerate(rows):
            if stopped < last:
                outbox = segments[k].connection.outbox
                unsent[k] = outbox.settle(origin.requests, chosen, self._answers, self._out, stopped, last)
        return unsent

    def _answer_apart(self, group: RequestGroup, outputs: list[Array], *, is_whole: bool) -> list[int]:
        """Answer requests one by one with large outputs, which are not copied; returns what `_answer` does.

        Outputs that do not follow rows are those of a lone request, and all of them are its answer (`is_whole`).
        """
        assert not is_whole or group.requests == 1, "bug: outputs that do not follow rows, for several requests"
        origin, row = group.origin, group.row
        unsent = []
        for segment in group.segments():
            unsent.append(0)
            if segment.connection.is_closed:
                continue
            for columns in origin.requests[segment.first : segment.last].tolist():
                answer = answer_of(origin, columns, outputs, None if is_whole else row)
                stream, generation = columns[R_STREAM], columns[R_STREAM_GENERATION]
                unsent[-1] += not segment.connection.outbox.answer(stream, generation, prefixed(encode_answer(answer)))
            self._core.mark(segment.connection)
        return unsent

    def _refuse(self, group: RequestGroup, error: ServingError) -> None:
        """Answer every request of a part of a group that is not answered yet by an error."""
        block = as_array(error_block(error))
        for segment in group.segments():
            if not segment.connection.is_closed:
                chosen = self._counting[segment.first : segment.last]
                segment.connection.outbox.refuse_all(group.origin.requests, chosen, block, 0, chosen.size)
                self._core.mark(segment.connection)

    def _shapes(self, group: RequestGroup, outputs: list[Array]) -> tuple[NDArray[np.int64], list[int]]:
        """Describe the outputs of a batch, from what is remembered: their first dimension does not matter."""
        known, is_batchable = group.origin.shapes, group.origin.servable.signature.batchable
        key = tuple(output.shape[1:] for output in outputs)
        if not is_batchable or key not in known:
            shapes = output_shapes(outputs, group.rows)
            described = shapes, shapes[:, D_ROW_BYTES].tolist()
            if not is_batchable:
                return described
            if len(known) >= SHAPES_MAX:
                known.clear()
            known[key] = described
        return known[key]

    def _encode(self, group: RequestGroup, chosen: NDArray[np.int64], shapes: NDArray[np.int64]) -> bool:
        """Write the answers of a group but for their contents; False when protobuf could not hold one of them."""
        origin = group.origin
        if chosen.size > len(self._answers):
            self._answers = np.empty((2 * chosen.size, ANSWER_COLUMNS), np.int64)
        row = group.row
        while True:
            needed = encode(
                origin.requests, chosen, origin.ids, origin.plan.numbers, origin.plan.text, shapes,
                row, self._out, 0, BEFORE_BYTES, AFTER_BYTES, self._answers,
            )  # fmt: skip
            if needed == TOO_LONG or needed <= self._out.size:
                return needed != TOO_LONG
            self._out = np.empty(needed, np.uint8)

    def _leave(self, group: RequestGroup, error: ServingError | None, unsent: list[int]) -> None:
        """Let the requests of a part of a group out; `unsent` of each segment were answered by another error."""
        origin = group.origin
        if error is None and not any(unsent):
            self._data_plane.leave_answered(origin.servable, group.requests)
        else:
            self._leave_refused(group, error, unsent)
        assert group.arena is not None, "bug: a group lies in no arena"
        group.arena.give_back(origin.lease, group.rows)
        origin.open_requests -= group.requests
        if not origin.open_requests:
            self.close(origin)

    def _leave_refused(self, group: RequestGroup, error: ServingError | None, unsent: list[int]) -> None:
        servable, arrivals = group.origin.servable, group.arrivals
        if any(unsent):
            refused = [(at_ns, count) for (at_ns, _), count in zip(arrivals, unsent, strict=True)]
            arrivals = [(at_ns, of - count) for (at_ns, of), count in zip(arrivals, unsent, strict=True)]
            self._data_plane.leave_many(servable, _TOO_MUCH_UNSENT, refused)
        self._data_plane.leave_many(servable, error, arrivals)

    def close(self, origin: Origin) -> None:
        """Let a servable go when all requests of a group are out."""
        del self.groups[origin.number]
        if origin.timer is not None:
            origin.timer.cancel()
        origin.handle.release()


def _follow_rows(outputs: list[Array], rows: int) -> bool:
    """Say whether outputs have a row for each of the inputs, which those of several requests always do."""
    return all(output.ndim > 0 and len(output) == rows for output in outputs)


def answer_of(origin: Origin, columns: list[int], outputs: list[Array], row: int | None) -> InferAnswer:
    """Return the answer to one request of a group; `row` is the arena row of the outputs' first row.

    Without it the outputs are those of this request alone.
    """
    servable = origin.servable
    is_part = row is not None and servable.signature.batchable
    begin, rows = columns[R_ROW] - (row or 0), columns[R_ROWS]
    id_at = columns[R_ID_AT]
    chosen = columns[R_OUTPUT : R_OUTPUT + columns[R_OUTPUT_COUNT]]
    specs = servable.signature.outputs
    return InferAnswer(
        model_name=servable.name,
        model_version=servable.version,
        id=origin.ids[id_at : id_at + columns[R_ID_LENGTH]].tobytes().decode(),
        outputs=tuple(
            OutputTensor(
                specs[index].name,
                specs[index].datatype,
                outputs[index][begin : begin + rows] if is_part else outputs[index],
            )
            for index in chosen
        ),
        raw=True,
    )


def _remember(group: RequestGroup, outputs: list[Array]) -> None:
    """Keep what the requests with an id and one row were answered, for the labels that may come.

    They are answered already, so a mistake of ours in this must cost nothing else.
    """
    origin, row, feedback = group.origin, group.row, group.origin.servable.feedback
    if not feedback.is_on:
        return
    columns = origin.requests[group.first : group.last]
    try:
        for request in columns[(columns[:, R_ID_LENGTH] > 0) & (columns[:, R_ROWS] == 1)]:
            at = int(request[R_ID_AT])
            request_id = origin.ids[at : at + int(request[R_ID_LENGTH])].tobytes().decode(errors="replace")
            feedback.note(request_id, outputs, int(request[R_ROW]) - row)
    except Exception:  # noqa: BLE001 - logged
        _log.exception("requests could not be remembered for their labels")
