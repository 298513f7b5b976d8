"""Requests as bytes in every shape that protobuf allows and some that it does not, and two ways to read them.

`Reader` calls the kernels, each time twice with different garbage around everything; `ordinary` is the slow twin:
protobuf's own parser and `serving.validation`.
"""

from dataclasses import dataclass

import numpy as np

from serving.batching.arena import Arena
from serving.errors import ServingError
from serving.transport.codec import decode_request
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from serving.validation import validate
from serving.wire import infer, plan, response, rows
from serving.wire.protobuf import encoded_varint
from serving.wire.records import (
    ACCEPTED,
    ID_BYTES_MAX,
    R_AT,
    R_DEADLINE_NS,
    R_ID_AT,
    R_ID_LENGTH,
    R_LENGTH,
    R_OUTPUT,
    R_OUTPUT_COUNT,
    R_ROW,
    R_ROWS,
    R_SLOT,
    R_SOURCE,
    R_VERDICT,
    RECORD_COLUMNS,
    REQUEST_COLUMNS,
)
from tests.support.wire import fenced

FP32, INT64, BOOL = Datatype.FP32, Datatype.INT64, Datatype.BOOL
FOREST = Signature(
    (TensorSpec("x", FP32, (DYNAMIC, 3)), TensorSpec("flags", BOOL, (DYNAMIC,))),
    (TensorSpec("label", INT64, (DYNAMIC,)), TensorSpec("scores", FP32, (DYNAMIC, 2))),
    batchable=True,
)
WHOLE = Signature((TensorSpec("x", FP32, (2, 2)),), (TensorSpec("y", FP32, ()),), batchable=False)
TEXT = Signature((TensorSpec("x", Datatype.BYTES, (DYNAMIC,)),), (TensorSpec("y", FP32, (DYNAMIC,)),), batchable=True)


def arena_of(plan, slot, rows):
    """Return the bytes of an arena for a servable of a plan, and its inputs [capacity, ...] over them."""
    arena = Arena(plan.models[slot].signature, rows)
    return arena.octets, arena.arrays


def model(name, version, signature, rows_max=8):
    return plan.Model(name=name, version=version, signature=signature, rows_max=rows_max)


MODELS = (model("forest", 1, FOREST), model("forest", 12, FOREST), model("whole", 3, WHOLE), model("text", 1, TEXT))


# ---- writing -------------------------------------------------------------------------------------------------------


def field(number, content, *, padding=0):
    """Write a field: bytes and str with their length, an int as a varint, `padding` bytes longer than it need be."""
    if isinstance(content, int):
        return encoded_varint(number << 3) + padded(content % 2**64, padding)
    content = content.encode() if isinstance(content, str) else content
    return encoded_varint(number << 3 | 2) + padded(len(content), padding) + content


def padded(value, padding):
    if not padding:
        return encoded_varint(value)
    plain = encoded_varint(value)
    return plain[:-1] + bytes([plain[-1] | 0x80]) + b"\x80" * (padding - 1) + b"\x00"


def tensor(name, datatype, shape, *, packed=True):
    dims = [encoded_varint(dimension % 2**64) for dimension in shape]
    shape_fields = [field(3, b"".join(dims))] if packed else [b"\x18" + dimension for dimension in dims]
    return b"".join([field(1, name), field(2, datatype), *shape_fields])


def request(name="forest", count=2, *, named="42", outputs=(), version=""):
    """Return the fields of a request to the forest, in protobuf's own order."""
    generator = np.random.default_rng(count)
    x, flags = generator.random((count, 3), np.float32), generator.random(count) < 0.5
    fields = [field(1, name), field(2, version) if version else b"", field(3, named) if named else b""]
    fields += [field(5, tensor("x", "FP32", x.shape)), field(5, tensor("flags", "BOOL", flags.shape))]
    fields += [field(6, field(1, output)) for output in outputs]
    return [*fields, field(7, x.tobytes()), field(7, flags.tobytes())]


# ---- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What a message says: the same for both ways to read it."""

    slot: int
    id: bytes
    rows: int
    outputs: tuple[int, ...]
    inputs: tuple[tuple[tuple[int, ...], bytes], ...]


def ordinary(message, models=MODELS):
    """Read a message on the ordinary path; None when it is refused, or answered in a way that kernels have not."""
    try:
        asked = decode_request(message)
        served = [known for known in models if known.name == asked.model_name]
        if asked.model_version:
            served = [known for known in served if str(known.version) == asked.model_version]
        if not served:
            return None
        found = max(served, key=lambda known: known.version)
        valid = validate(asked, found.signature, rows_max=found.rows_max)
    except ServingError:
        return None
    if not valid.raw or valid.timeout_us or asked.parameters:
        return None
    inputs = tuple((array.shape, array.tobytes()) for array in valid.inputs)
    return Reading(models.index(found), asked.id.encode(), valid.rows, valid.outputs, inputs)


class Reader:
    """Scans and takes one message at a time, twice, and checks that nothing but its own places was written."""

    def __init__(self, models=MODELS):
        self.models = models
        self.plan = plan.build(models)

    def read(self, message):
        """Return the Reading of an accepted message, None for an ordinary one."""
        readings = [self._read(message, garbage) for garbage in (1, 2)]
        assert readings[0] == readings[1]
        return readings[0]

    def _read(self, message, garbage):
        source, at, end = fenced(message, garbage)
        if garbage == 2:  # the most tempting garbage: what would continue the message
            source[end:] = np.frombuffer((message + bytes(64))[:64], np.uint8)
        untouched = source.copy()
        records = np.full((3, RECORD_COLUMNS), garbage * 1_000_003, np.int64)
        records[1, [R_SOURCE, R_AT, R_LENGTH]] = garbage, at, end - at
        accepted, slot = infer.scan_requests(source, garbage, records, 1, 2, self.plan.numbers, self.plan.text)
        assert (source == untouched).all()
        assert (records[[0, 2]] == garbage * 1_000_003).all()
        assert (records[1, :R_VERDICT] == garbage * 1_000_003).all()
        assert accepted == (records[1, R_VERDICT] == ACCEPTED)
        assert not accepted or slot == records[1, R_SLOT]
        return self._take(source, records, garbage) if accepted else None

    def _take(self, source, records, garbage):
        slot, count, row = int(records[1, R_SLOT]), int(records[1, R_ROWS]), 3 * garbage
        arena, views = arena_of(self.plan, slot, row + count + 5)
        requests = np.full((4, REQUEST_COLUMNS), -garbage, np.int64)
        ids = np.full(4 * ID_BYTES_MAX, garbage, np.uint8)
        arena[:] = garbage
        taken = rows.take_rows(
            source,
            garbage,
            records,
            1,
            2,
            self.plan.numbers,
            slot,
            arena,
            row,
            row + count,
            requests,
            garbage,
            ids,
            np.zeros(0, np.int64),
            1,
        )
        assert taken == (2, row + count, garbage + 1, records[1, R_DEADLINE_NS])
        request = requests[garbage].tolist()
        assert (np.delete(requests, garbage, axis=0) == -garbage).all()
        id_at, id_length = request[R_ID_AT], request[R_ID_LENGTH]
        name = ids[id_at : id_at + id_length].tobytes()
        ids[id_at : id_at + id_length] = garbage
        assert (ids == garbage).all()
        inputs = tuple(self._rows(view, row, count, slot) for view in views)
        for view in views:
            view[row : row + count].reshape(count, -1).view(np.uint8)[:] = garbage
        assert (arena == garbage).all()
        assert request[R_ROW] == row
        outputs = tuple(request[R_OUTPUT : R_OUTPUT + request[R_OUTPUT_COUNT]])
        return Reading(slot, name, count, outputs, inputs)

    def _rows(self, view, row, count, slot):
        array = view[row : row + count]
        array = array if self.models[slot].signature.batchable else array[0]
        return array.shape, array.tobytes()


# ---- answering -----------------------------------------------------------------------------------------------------


class Writer:
    """Encodes the answers of a batch, twice, and checks that nothing but the answers was written."""

    def __init__(self, known):
        self.plan = plan.build((model("other", 1, FOREST), known))

    def write(self, requests, arrays, chosen, *, row, before, after):
        """Return the chosen answers, in order; `requests` are (id, first row, rows, asked outputs)."""
        written = [self._write(requests, arrays, chosen, (row, before, after), garbage) for garbage in (0, 0xA5)]
        assert written[0] == written[1]
        return written[0]

    def _write(self, requests, arrays, chosen, places, garbage):
        row, before, after = places
        batch, ids = self._batch(requests, row)
        batchable = self.plan.models[1].signature.batchable
        batch_rows = sum(count for _, _, count, _ in requests) if batchable else 1
        shapes = response.output_shapes(arrays, batch_rows)
        answers = np.full((len(chosen) + 1, response.ANSWER_COLUMNS), garbage, np.int64)
        order = np.array(chosen, np.int64)

        def encode(out, at):
            tables = (self.plan.numbers, self.plan.text, shapes)
            return response.encode(batch, order, ids, *tables, row, out, at, before, after, answers)

        needed = encode(np.zeros(0, np.uint8), 0)
        short = np.full(needed + 7, garbage, np.uint8)
        assert encode(short, 8) == needed
        assert (short == garbage).all()
        assert (answers == garbage).all()
        out = np.full(needed + 14, garbage, np.uint8)
        assert encode(out, 7) == needed
        for index, array in enumerate(arrays):
            contents = array.reshape(-1).view(np.uint8)
            assert response.fill(answers, len(chosen), index, shapes[index, response.D_ROW_BYTES], contents, out)
        assert (answers[-1] == garbage).all()
        return self._cut(out, answers[:-1], garbage, places)

    def _batch(self, requests, row):
        batch = np.zeros((len(requests), REQUEST_COLUMNS), np.int64)
        ids = np.zeros(len(requests) * ID_BYTES_MAX, np.uint8)
        for k, (name, first, count, asked) in enumerate(requests):
            text = name.encode()
            batch[k, [R_SLOT, R_ROW, R_ROWS, R_ID_AT, R_ID_LENGTH, R_OUTPUT_COUNT]] = (
                *(1, row + first, count),
                *(k * ID_BYTES_MAX, len(text), len(asked)),
            )
            batch[k, R_OUTPUT : R_OUTPUT + len(asked)] = asked
            ids[k * ID_BYTES_MAX :][: len(text)] = np.frombuffer(text, np.uint8)
        return batch, ids

    def _cut(self, out, answers, garbage, places):
        """Take the messages out of the output, and check their prefixes and that all else is as it was."""
        _, before, after = places
        messages, at = [], 7
        for answer in answers:
            begin, length = int(answer[response.A_AT]), int(answer[response.A_LENGTH])
            assert begin == at + before
            whole = out[begin : begin + length].tobytes()
            assert whole[:5] == b"\0" + (length - 5).to_bytes(4, "big")
            messages.append(whole[5:])
            out[begin : begin + length] = garbage
            at = begin + length + after
        assert at == out.size - 7
        assert (out == garbage).all()
        return messages
