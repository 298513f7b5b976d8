"""What the scan accepts and what it leaves to the ordinary path, one rule at a time."""

import random

import numpy as np
import pytest

from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from serving.wire import infer, rows
from serving.wire.infer import SLOTS_DIFFER
from serving.wire.layout import NO_DEADLINE
from serving.wire.records import (
    ACCEPTED,
    ID_BYTES_MAX,
    INPUTS_MAX,
    ORDINARY,
    OUTPUTS_MAX,
    R_AT,
    R_DEADLINE_NS,
    R_LENGTH,
    R_ROWS,
    R_SLOT,
    R_SOURCE,
    R_VERDICT,
    RECORD_COLUMNS,
    REQUEST_COLUMNS,
)
from tests.support.infer_wire import BOOL, FOREST, FP32, Reader, arena_of, field, model, ordinary, request, tensor

READER = Reader()
PLAIN = request()
MESSAGE = b"".join(PLAIN)
X, FLAGS = PLAIN[3], PLAIN[4]


def accepted(message, reader=READER):
    """Read a message that must be accepted, and check that the ordinary path reads the same."""
    reading = reader.read(message)
    assert reading is not None
    assert reading == ordinary(message, reader.models)
    return reading


def declined(message, reader=READER):
    return reader.read(message) is None


# ---- accepted ------------------------------------------------------------------------------------------------------


def test_a_plain_request_is_accepted_with_its_rows_its_id_and_all_outputs():
    reading = accepted(MESSAGE)
    assert (reading.slot, reading.id, reading.rows, reading.outputs) == (1, b"42", 2, (0, 1))


def test_the_newest_version_answers_a_request_without_one():
    assert accepted(b"".join(request(version="1"))).slot == 0
    assert accepted(b"".join(request(version="12"))).slot == 1
    assert accepted(b"".join(request())).slot == 1


@pytest.mark.parametrize("seed", range(40))
def test_fields_may_come_in_any_order(seed):
    shuffled = request(outputs=("scores",), version="12")
    random.Random(seed).shuffle(shuffled)
    reading, twin = READER.read(b"".join(shuffled)), ordinary(b"".join(shuffled))
    assert reading == twin  # None for both where the contents changed places
    if shuffled.index(PLAIN[3]) < shuffled.index(PLAIN[4]) and shuffled.index(PLAIN[5]) < shuffled.index(PLAIN[6]):
        assert reading is not None


def test_inputs_in_another_order_come_with_their_contents_in_that_order():
    swapped = [*PLAIN[:3], FLAGS, X, PLAIN[6], PLAIN[5]]
    assert accepted(b"".join(swapped)).inputs == accepted(MESSAGE).inputs


def test_the_last_of_a_repeated_string_counts():
    repeated = field(1, "other") + field(2, "7") + field(3, "old") + MESSAGE + field(2, "1") + field(3, "")
    reading = accepted(repeated)
    assert (reading.slot, reading.id) == (0, b"")


def test_the_last_of_a_repeated_string_of_a_tensor_counts():
    x = field(5, field(1, "y") + field(2, "FP16") + tensor("x", "FP32", (2, 3)))
    accepted(b"".join([*PLAIN[:3], x, *PLAIN[4:]]))


@pytest.mark.parametrize(
    "dims", [tensor("", "", (2, 3), packed=False), field(3, b"\x02") + b"\x18\x03" + field(3, b"")]
)
def test_shapes_may_be_unpacked_or_in_several_pieces(dims):
    x = field(5, field(1, "x") + field(2, "FP32") + dims[dims.index(b"\x18") if dims[0] == 0x0A else 0 :])
    accepted(b"".join([*PLAIN[:3], x, *PLAIN[4:]]))


def test_outputs_come_in_the_asked_order():
    assert accepted(b"".join(request(outputs=("scores", "label")))).outputs == (1, 0)
    assert accepted(b"".join(request(outputs=("scores",)))).outputs == (1,)


def test_an_id_may_be_any_text():
    assert accepted(b"".join(request(named="ключ 🔑"))).id.decode() == "ключ 🔑"
    assert accepted(b"".join(request(named="i" * ID_BYTES_MAX))).id == b"i" * ID_BYTES_MAX


def test_a_model_that_is_not_batchable_takes_its_exact_shape_as_one_row():
    whole = field(1, "whole") + field(5, tensor("x", "FP32", (2, 2))) + field(7, np.ones(4, np.float32).tobytes())
    reading = accepted(whole)
    assert (reading.rows, reading.slot) == (1, 2)
    assert declined(whole.replace(b"\x02\x02", b"\x04\x01"))


# ---- left to the ordinary path -------------------------------------------------------------------------------------

CONTENTS = PLAIN[5] + PLAIN[6]
HEAD = b"".join(PLAIN[:3])
ORDINARY_MESSAGES = {
    "nothing": b"",
    "no model": b"".join(PLAIN[1:]),
    "an unknown model": b"".join(request(name="wood")),
    "an unknown version": b"".join(request(version="2")),
    "a version that only looks like one": b"".join(request(version="01")),
    "zero rows": b"".join(request(count=0)),
    "too many rows": b"".join(request(count=9)),
    "an unknown field": MESSAGE + field(9, 1),
    "a group": MESSAGE + b"\x4b\x4c",
    "a known field with another wire type": MESSAGE + b"\x08\x01",
    "field number zero": MESSAGE + b"\x02\x00",
    "a parameter": MESSAGE + field(4, field(1, "priority") + field(2, field(2, 1))),
    "a parameter of an input": HEAD + field(5, X[2:] + field(4, b"")) + FLAGS + CONTENTS,
    "typed contents": HEAD + field(5, X[2:] + field(5, b"")) + FLAGS + CONTENTS,
    "a parameter of an output": MESSAGE + field(6, field(1, "label") + field(2, b"")),
    "an unknown input": HEAD + X + FLAGS + field(5, tensor("z", "FP32", (2, 3))) + CONTENTS + PLAIN[5],
    "a missing input": HEAD + X + PLAIN[5],
    "an input twice": HEAD + X + X + PLAIN[5] + PLAIN[5],
    "another datatype": HEAD + field(5, tensor("x", "INT32", (2, 3))) + FLAGS + CONTENTS,
    "no datatype": HEAD + field(5, field(1, "x") + field(3, b"\x02\x03")) + FLAGS + CONTENTS,
    "another rank": HEAD + field(5, tensor("x", "FP32", (2, 3, 1))) + FLAGS + CONTENTS,
    "no shape": HEAD + field(5, tensor("x", "FP32", ())) + FLAGS + CONTENTS,
    "another fixed dimension": HEAD + field(5, tensor("x", "FP32", (3, 2))) + FLAGS + CONTENTS,
    "inputs that disagree on rows": HEAD + X + field(5, tensor("flags", "BOOL", (1,))) + CONTENTS,
    "a negative dimension": HEAD + field(5, tensor("x", "FP32", (-2, 3))) + FLAGS + CONTENTS,
    "a dimension that overflows": HEAD + field(5, tensor("x", "FP32", (2**62, 3))) + FLAGS + CONTENTS,
    "no contents": HEAD + X + FLAGS,
    "contents for one input only": HEAD + X + FLAGS + PLAIN[5],
    "contents too many": MESSAGE + field(7, b""),
    "contents too short": HEAD + X + FLAGS + field(7, PLAIN[5][3:]) + PLAIN[6],
    "contents too long": HEAD + X + FLAGS + PLAIN[5] + field(7, b"\0\0\0"),
    "a bool that is neither 0 nor 1": HEAD + X + FLAGS + PLAIN[5] + field(7, b"\x01\x02"),
    "an unknown output": b"".join(request(outputs=("labels",))),
    "an output twice": b"".join(request(outputs=("label", "label"))),
    "an output too many": b"".join(request(outputs=("label", "scores", "label"))),
    "a long id": b"".join(request(named="i" * (ID_BYTES_MAX + 1))),
    "an id that is not UTF-8": MESSAGE + field(3, b"\xff"),
    "a replaced id that is not UTF-8": field(3, b"\xff") + MESSAGE,
    "a replaced name that is not UTF-8": field(1, b"\xc0\x80") + MESSAGE,
    "a replaced name of an input that is not UTF-8": HEAD + field(5, field(1, b"\xff") + X[2:]) + FLAGS + CONTENTS,
    "a replaced datatype that is not UTF-8": HEAD + field(5, field(2, b"\xff") + X[2:]) + FLAGS + CONTENTS,
    "a replaced name of an output that is not UTF-8": MESSAGE + field(6, field(1, b"\xff") + field(1, "label")),
    "a model with BYTES, and nothing for it": field(1, "text"),
    "a model with BYTES": field(1, "text") + field(5, tensor("x", "BYTES", (1,))) + field(7, b"\0\0\0\0"),
}


@pytest.mark.parametrize("message", ORDINARY_MESSAGES.values(), ids=ORDINARY_MESSAGES.keys())
def test_whatever_is_wrong_or_unusual_is_ordinary(message):
    assert declined(message)


@pytest.mark.parametrize(
    "text", [b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe0\x80\x80", b"\xc3", b"\xf0\x9f\x94", b"\x80"]
)
def test_an_id_is_text_by_the_rules_of_utf_8(text):
    assert declined(MESSAGE + field(3, text))
    assert declined(MESSAGE + field(3, b"ok" + text))


def is_valid(text):
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_text_is_what_python_calls_utf_8():
    choice = random.Random(8)
    edges = [0, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF]
    texts = [bytes([a, b]) for a in range(256) for b in range(256)]
    texts += [bytes([a, b, c]) for a in range(0xDF, 0xF6) for b in range(256) for c in edges]
    texts += [bytes([a, b, *choice.choices(edges, k=2)]) for a in range(0xEF, 0xF6) for b in range(256) for _ in "123"]
    texts += [text + b"!" for text in texts]
    _, records = scanned(*(HEAD + field(3, text) + b"".join(PLAIN[3:]) for text in texts))
    assert records[:, R_VERDICT].tolist() == [int(is_valid(text)) for text in texts]


def test_a_message_cut_anywhere_is_ordinary_or_read_as_protobuf_reads_it():
    message = b"".join(request(outputs=("scores",), version="12"))
    for end in range(len(message)):
        reading = READER.read(message[:end])
        assert reading is None or reading == ordinary(message[:end])


def test_every_changed_byte_is_ordinary_or_read_as_protobuf_reads_it():
    for at in range(len(MESSAGE)):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(MESSAGE)
            changed[at] ^= flip
            reading = READER.read(bytes(changed))
            assert reading is None or reading == ordinary(bytes(changed))


@pytest.mark.parametrize("padding", range(11))
def test_numbers_may_be_longer_than_they_need_be_where_protobuf_allows_it(padding):
    messages = [
        b"".join([*PLAIN[:2], field(3, "42", padding=padding), *PLAIN[3:]]),
        HEAD
        + field(5, field(1, "x") + field(2, "FP32") + b"\x18" + longer(2, padding) + b"\x18\x03")
        + FLAGS
        + CONTENTS,
        HEAD + field(5, field(1, "x") + field(2, "FP32") + field(3, longer(2, padding) + b"\x03")) + FLAGS + CONTENTS,
    ]
    for message in messages:
        assert READER.read(message) == ordinary(message)


def longer(value, padding):
    return bytes([value | 0x80]) + b"\x80" * (padding - 1) + b"\x00" if padding else bytes([value])


@pytest.mark.parametrize("last", [b"\x01", b"\x02", b"\x7f", b"\x81\x00"])
def test_ten_bytes_are_a_number_of_64_bits_or_none(last):
    dims = b"\xff" * 9 + last + b"\x03"
    assert declined(HEAD + field(5, field(1, "x") + field(2, "FP32") + field(3, dims)) + FLAGS + CONTENTS)


def test_bits_beyond_the_64th_do_not_fall_off_a_number():
    too_long = b"\x82" + b"\x80" * 8 + b"\x02"  # 2, and a bit that has no place
    x = field(5, field(1, "x") + field(2, "FP32") + b"\x18" + too_long + b"\x18\x03")
    assert declined(HEAD + x + FLAGS + CONTENTS)


@pytest.mark.parametrize("length", [2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_length_beyond_the_end_is_refused_whatever_it_would_wrap_to(length):
    assert declined(MESSAGE + b"\x1a" + field(1, length)[1:])
    assert declined(field(1, "forest")[:1] + field(1, length)[1:] + MESSAGE)


@pytest.mark.parametrize("span", [(-1, 4), (0, -1), (5, 10**6), (10**6, 1), (2**63 - 1, 2**63 - 1), (-(2**63), 5)])
def test_a_span_outside_the_buffer_is_ordinary(span):
    records = np.full((1, RECORD_COLUMNS), 5, np.int64)
    records[0, [R_SOURCE, R_AT, R_LENGTH]] = 0, *span
    source = np.frombuffer(MESSAGE, np.uint8).copy()
    assert infer.scan_requests(source, 0, records, 0, 1, READER.plan.numbers, READER.plan.text)[0] == 0
    assert records[0, R_VERDICT] == ORDINARY


# ---- models --------------------------------------------------------------------------------------------------------


def lone(signature):
    """Return a reader of one model, and a request for it with every dimension that is open set to 1."""
    specs = [(spec, [max(1, dimension) for dimension in spec.shape]) for spec in signature.inputs]
    message = field(1, "m") + b"".join(field(5, tensor(s.name, s.datatype.wire_name, dims)) for s, dims in specs)
    message += b"".join(field(7, bytes(int(np.prod(dims)) * s.datatype.item_bytes)) for s, dims in specs)
    return Reader((model("m", 1, signature),)), message


Y = TensorSpec("y", FP32, (DYNAMIC,))


@pytest.mark.parametrize(
    "inputs",
    [
        (TensorSpec("x", FP32, (DYNAMIC, DYNAMIC)),),
        (TensorSpec("x", FP32, (DYNAMIC, *[1] * 8)),),
        tuple(TensorSpec(f"x{k}", FP32, (DYNAMIC,)) for k in range(INPUTS_MAX + 1)),
    ],
    ids=["an open inner dimension", "a high rank", "many inputs"],
)
def test_a_model_that_does_not_fit_the_kernels_takes_the_ordinary_path(inputs):
    reader, message = lone(Signature(inputs, (Y,), batchable=True))
    assert not reader.plan.is_compiled(0)
    assert ordinary(message, reader.models) is not None
    assert declined(message, reader)


def test_as_many_inputs_and_outputs_as_the_records_hold_are_accepted():
    inputs = tuple(TensorSpec(f"x{k}", FP32, (DYNAMIC, k + 1)) for k in range(INPUTS_MAX))
    outputs = tuple(TensorSpec(f"y{k}", FP32, (DYNAMIC,)) for k in range(OUTPUTS_MAX))
    reader, message = lone(Signature(inputs, outputs, batchable=True))
    assert accepted(message, reader).outputs == tuple(range(OUTPUTS_MAX))
    backwards = b"".join(field(6, field(1, spec.name)) for spec in reversed(outputs))
    assert accepted(message + backwards, reader).outputs == tuple(reversed(range(OUTPUTS_MAX)))


def test_an_output_of_strings_is_ordinary_only_when_it_is_asked_for():
    words = TensorSpec("words", Datatype.BYTES, (DYNAMIC,))
    reader, message = lone(Signature((TensorSpec("x", FP32, (DYNAMIC,)),), (words, Y), batchable=True))
    assert declined(message, reader)
    assert declined(message + field(6, field(1, "words")), reader)
    assert accepted(message + field(6, field(1, "y")), reader).outputs == (1,)


def test_a_newer_version_that_does_not_fit_the_kernels_hides_the_older_one():
    x = TensorSpec("x", BOOL, (DYNAMIC,))
    old = Signature((x,), (Y,), batchable=True)
    new = Signature((TensorSpec("x", BOOL, (DYNAMIC, DYNAMIC)),), (Y,), batchable=True)
    reader = Reader((model("m", 2, new), model("m", 1, old)))
    message = field(1, "m") + field(5, tensor("x", "BOOL", (1,))) + field(7, b"\1")
    assert declined(message, reader)
    assert accepted(message + field(2, "1"), reader).slot == 1


def test_a_thousand_models_are_told_apart():
    signature = Signature((TensorSpec("x", BOOL, (DYNAMIC,)),), (Y,), batchable=True)
    models = tuple(model(f"model-{k // 2}", k % 2, signature) for k in range(1000))
    reader = Reader(models)
    body = field(5, tensor("x", "BOOL", (1,))) + field(7, b"\1")
    for slot in (0, 1, 2, 501, 998, 999):
        named = field(1, models[slot].name)
        assert reader.read(named + field(2, str(models[slot].version)) + body).slot == slot
        assert reader.read(named + body).slot == slot | 1
    assert reader.read(field(1, "model-500") + body) is None


@pytest.mark.parametrize("name", [b"\xff", b"?", b"\xed\xb3\xbf"])
def test_a_model_whose_folder_has_no_name_in_utf_8_cannot_be_asked_for(name):
    reader = Reader((model("\udcff", 1, FOREST),))
    assert reader.read(field(1, name) + b"".join(PLAIN[1:])) is None


def test_a_server_without_models_leaves_everything_to_the_ordinary_path():
    assert declined(MESSAGE, Reader(()))


# ---- taking --------------------------------------------------------------------------------------------------------


def scanned(*messages):
    source = np.frombuffer(b"".join(messages), np.uint8).copy()
    records = np.zeros((len(messages), RECORD_COLUMNS), np.int64)
    records[:, R_LENGTH] = [len(message) for message in messages]
    records[1:, R_AT] = np.cumsum(records[:-1, R_LENGTH])
    records[:, R_DEADLINE_NS] = np.resize([999, 997, 1000, 998], len(messages))
    infer.scan_requests(source, 0, records, 0, len(messages), READER.plan.numbers, READER.plan.text)
    return source, records


def take(source, records, slot, *, row=0, row_end=64, first=0, requests=8):
    arena, views = arena_of(READER.plan, slot, 64)
    batch, ids = np.zeros((requests, REQUEST_COLUMNS), np.int64), np.zeros(requests * ID_BYTES_MAX, np.uint8)
    taken = rows.take_rows(
        source,
        0,
        records,
        first,
        len(records),
        READER.plan.numbers,
        slot,
        arena,
        row,
        row_end,
        batch,
        0,
        ids,
        np.zeros(8, np.int64),
        1,
    )
    return taken, batch, views


def test_requests_lie_side_by_side_and_those_of_other_servables_are_passed_over():
    source, records = scanned(*(b"".join(request(count=n, version=v)) for n, v in ((1, ""), (2, "1"), (3, ""))), b"no")
    taken, batch, views = take(source, records, 1)
    assert taken == (4, 4, 2, 999)
    assert batch[:2, R_ROWS].tolist() == [1, 3]
    expected = [np.frombuffer(ordinary(b"".join(request(count=n))).inputs[0][1], np.float32) for n in (1, 3)]
    assert views[0][:4].ravel().tolist() == np.concatenate(expected).tolist()


def test_taking_stops_at_the_first_request_without_room_and_goes_on_in_the_next_batch():
    source, records = scanned(*(b"".join(request(count=n)) for n in (2, 3, 1)))
    assert take(source, records, 1, row_end=4)[0] == (1, 2, 1, 999)
    assert take(source, records, 1, first=1)[0] == (3, 4, 2, 997)
    assert take(source, records, 1, requests=2)[0] == (2, 5, 2, 997)
    assert take(source, records, 1, row=62, row_end=1000)[0] == (1, 64, 1, 999)
    assert take(source, records, 1, row=63)[0] == (0, 63, 0, NO_DEADLINE)


def test_requests_that_lie_in_another_buffer_are_left_alone():
    source, records = scanned(*[MESSAGE] * 3)
    records[1, [R_SOURCE, R_VERDICT]] = 1, 77
    assert infer.scan_requests(source, 0, records, 0, 3, READER.plan.numbers, READER.plan.text)[0] == 2
    assert records[1, R_VERDICT] == 77
    records[1, R_VERDICT] = ACCEPTED
    assert take(source, records, 1)[0] == (3, 4, 2, 999)


def test_a_scan_tells_the_one_servable_that_is_asked_for():
    newest, first = b"".join(request()), b"".join(request(version="1"))
    for messages, slots in (
        ([newest, b"no", newest], {1}),
        ([b"no", first], {0}),
        ([newest, first, newest], {SLOTS_DIFFER}),
        ([first, newest, b"no"], {SLOTS_DIFFER}),
    ):
        source, records = scanned(*messages)
        _, slot = infer.scan_requests(source, 0, records, 0, len(messages), READER.plan.numbers, READER.plan.text)
        accepted = set(records[records[:, R_VERDICT] == ACCEPTED, R_SLOT].tolist())
        assert {slot} == slots
        assert slot == SLOTS_DIFFER or accepted == slots
