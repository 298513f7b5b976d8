"""Laws of the scan, against protobuf's parser and `serving.validation` as the slow twin.

Whatever the kernels accept, the twin accepts and reads the same; so whatever the twin refuses is ordinary. What an
honest client sends is accepted, whatever the model.
"""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support.environments import CACHE
from tests.support.infer_wire import Reader, field, model, ordinary, padded, tensor

ROOT = Path(__file__).parents[2]
FIXED = [datatype for datatype in Datatype if datatype is not Datatype.BYTES]
NAMES = st.text("abé☃𝄞", max_size=4)


@st.composite
def signatures(draw):
    batchable = draw(st.booleans())

    def specs(count_min, count_max):
        names = draw(st.lists(NAMES, min_size=count_min, max_size=count_max, unique=True))
        lead = (DYNAMIC,) if batchable else ()
        dims = st.lists(st.integers(1, 3), max_size=3)
        return tuple(TensorSpec(name, draw(st.sampled_from(FIXED)), lead + tuple(draw(dims))) for name in names)

    return Signature(specs(1, 4), specs(1, 3), batchable=batchable)


@st.composite
def fields_of(draw, known):
    """Draw the fields of an honest request for a model: (number, content) pairs, the inputs in a drawn order."""
    count = draw(st.integers(1, known.rows_max))
    inputs = draw(st.permutations(known.signature.inputs))
    asked = draw(st.lists(st.sampled_from(known.signature.outputs), unique=True))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    tensors, contents = [], []
    for spec in inputs:
        shape = tuple(count if dimension == DYNAMIC else dimension for dimension in spec.shape)
        length = int(np.prod(shape)) * spec.datatype.item_bytes
        values = generator.integers(0, 2 if spec.datatype is Datatype.BOOL else 256, length, np.uint8)
        tensors.append((5, tensor(spec.name, spec.datatype.wire_name, shape, packed=draw(st.booleans()))))
        contents.append((7, values.tobytes()))
    strings = [(1, known.name), (2, draw(st.sampled_from(["", str(known.version)]))), (3, draw(st.text(max_size=9)))]
    wanted = [(6, field(1, spec.name)) for spec in asked]
    return [(number, text.encode()) for number, text in strings] + interleaved(draw, [tensors, wanted, contents])


def interleaved(draw, groups):
    """Mix groups of fields, each in its own order."""
    mixed = []
    groups = [list(group) for group in groups if group]
    while groups:
        group = draw(st.sampled_from(groups))
        mixed.append(group.pop(0))
        groups = [group for group in groups if group]
    return mixed


def written(fields, paddings=()):
    paddings = [*paddings, *[0] * len(fields)]
    return b"".join(field(number, content, padding=paddings[k]) for k, (number, content) in enumerate(fields))


@st.composite
def models_and_fields(draw):
    models = tuple(model("m", version, draw(signatures()), rows_max=draw(st.integers(1, 4))) for version in (1, 2))
    return models, draw(fields_of(models[1]))


@given(models_and_fields(), st.lists(st.integers(0, 3), max_size=4))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_an_honest_request_is_accepted_and_reads_as_the_twin_reads_it(drawn, paddings):
    models, fields = drawn
    message = written(fields, paddings)
    reading = Reader(models).read(message)
    assert reading is not None
    assert reading == ordinary(message, models)


def mutated_fields(choice, fields):
    """Change a request as a faulty client would: fields doubled, lost, moved, renumbered, nested ones changed too."""
    fields = list(fields)
    at = choice.randrange(len(fields))
    number, content = fields[at]
    kind = choice.randrange(8)
    if kind == 0:
        del fields[at]
    elif kind == 1:
        fields.insert(choice.randrange(len(fields) + 1), fields[at])
    elif kind == 2:
        other = choice.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    elif kind == 3:
        fields[at] = (choice.randrange(1, 12), content)
    elif kind == 4:
        fields[at] = (number, content + choice.choice([b"\0", b"\xff", field(3, b"\x01"), field(1, "a"), field(9, 1)]))
    elif kind == 5:
        fields[at] = (number, content[: choice.randrange(len(content) + 1)])
    elif kind == 6:
        fields[at] = (number, padded(choice.choice([0, 1, 5, 2**31, 2**64 - 1]), choice.randrange(3)) + content)
    else:
        fields.insert(at, (choice.choice([1, 2, 3]), choice.choice([b"", b"m", b"1", b"2", b"\xff", b"\xed\xa0\x80"])))
    return fields or [(1, b"m")]


def mutated_bytes(choice, message):
    """Change, remove or insert a byte somewhere, the lengths included."""
    changed = bytearray(message)
    at = choice.randrange(len(changed))
    kind = choice.randrange(4)
    if kind == 0:
        changed[at] = choice.randrange(256)
    elif kind == 1:
        changed[at] = (changed[at] + choice.choice([1, 255])) % 256
    elif kind == 2:
        del changed[at]
    else:
        changed[at:at] = choice.choice([b"\0", b"\x80", b"\xff" * 9 + b"\x01", choice.randbytes(3)])
    return bytes(changed)


def check_mutations(models, fields, choice, count):
    """Check that no mutation is accepted that the twin reads otherwise; returns how many were accepted."""
    reader, found = Reader(models), 0
    for _ in range(count):
        changed = fields
        for _ in range(choice.randrange(3)):
            changed = mutated_fields(choice, changed)
        message = written(changed) or b"\0"
        for _ in range(choice.randrange(2)):
            message = mutated_bytes(choice, message) or b"\0"
        reading = reader.read(message)
        if reading is not None:
            found += 1
            assert reading == ordinary(message, models)
    return found


@given(models_and_fields(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_mutated_request_is_ordinary_or_reads_as_the_twin_reads_it(drawn, seed):
    models, fields = drawn
    check_mutations(models, fields, random.Random(seed), 20)


@given(models_and_fields())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_request_cut_anywhere_is_ordinary_or_reads_as_the_twin_reads_it(drawn):
    models, fields = drawn
    reader, message = Reader(models), written(fields)
    for end in range(len(message)):
        reading = reader.read(message[:end])
        assert reading is None or reading == ordinary(message[:end], models)


@given(st.binary(max_size=80), st.integers(0, 80))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_bytes_are_ordinary_or_read_as_the_twin_reads_them(noise, at):
    models, fields = CORPUS
    message = written(fields)
    for noisy in (noise, message[:at] + noise + message[at:], message[:at] + noise):
        reading = CORPUS_READER.read(noisy)
        assert reading is None or reading == ordinary(noisy, models)


FP32, BOOL = Datatype.FP32, Datatype.BOOL
CORPUS_SIGNATURE = Signature(
    (TensorSpec("a", FP32, (DYNAMIC, 2)), TensorSpec("b", BOOL, (DYNAMIC,))),
    (TensorSpec("y", FP32, (DYNAMIC, 2)), TensorSpec("z", FP32, (DYNAMIC,))),
    batchable=True,
)
CORPUS = (
    (model("m", 1, CORPUS_SIGNATURE), model("m", 2, CORPUS_SIGNATURE)),
    [
        (1, b"m"),
        (2, b"2"),
        (3, b"id"),
        (5, tensor("a", "FP32", (2, 2))),
        (5, tensor("b", "BOOL", (2,), packed=False)),
        (6, field(1, "z")),
        (7, np.arange(4, dtype=np.float32).tobytes()),
        (7, b"\0\1"),
    ],
)
CORPUS_READER = Reader(CORPUS[0])


def run_corpus(seed, count):
    """Check a seeded corpus, and that enough of it was accepted for the check to mean something."""
    found = check_mutations(*CORPUS, random.Random(seed), count)
    assert count // 20 < found < count


@pytest.mark.parametrize("seed", range(3))
def test_a_seeded_corpus_is_ordinary_or_reads_as_the_twin_reads_it(seed):
    run_corpus(seed, 1500)


CHECKED_CACHE = CACHE / "bounds-checked"
CHECKED_PROGRAM = """
import numpy as np
from serving.wire import compiler, infer
from serving.wire.records import R_LENGTH, RECORD_COLUMNS
from tests.property.test_infer_twin import CORPUS_READER, run_corpus
from tests.property.test_response_twin import run_answers

assert compiler.BOUNDS_CHECKED
run_corpus(11, 1500)
run_answers(11, 100)
plan = CORPUS_READER.plan
try:  # a plan that points outside its text must not go unnoticed
    message = np.frombuffer(b"\\x0a\\x01m", np.uint8).copy()
    records = np.zeros((1, RECORD_COLUMNS), np.int64)
    records[0, R_LENGTH] = 3
    infer.scan_requests(message, 0, records, 0, 1, plan.numbers, plan.text[:0].copy())
except IndexError:
    print("the overrun was seen")
"""


def test_the_corpus_stays_inside_its_arrays_where_bounds_are_checked():
    environment = {
        **os.environ,
        "NUMBA_BOUNDSCHECK": "1",
        "XDG_CACHE_HOME": str(CHECKED_CACHE),
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        [sys.executable, "-c", CHECKED_PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "the overrun was seen"
