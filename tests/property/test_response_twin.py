"""Laws of the answers, against protobuf's own serializer as the slow twin."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.transport.codec import encode_answer
from serving.types import DYNAMIC, Datatype, InferAnswer, OutputTensor, Signature, TensorSpec
from tests.support.infer_wire import Writer, model

FIXED = [datatype for datatype in Datatype if datatype is not Datatype.BYTES]
NAMES = ["", "y", "label", "naïve", "n" * 130]
IDS = ["", "1", "ключ", "i" * 64]


def drawn_model(choice):
    """Draw a model and the output arrays of a batch of it: names, ranks and lengths around what a varint holds."""
    batchable = choice.random() < 0.8
    count = choice.randrange(1, 5)
    specs, dims = [], []
    for name in choice.sample(NAMES, count):
        inner = tuple(choice.choice([0, 1, 2, 3, 33, 130]) for _ in range(choice.randrange(3)))
        lead = (DYNAMIC,) if batchable else ()
        is_open = choice.random() < 0.2
        specs.append(TensorSpec(name, choice.choice(FIXED), lead + ((DYNAMIC,) * len(inner) if is_open else inner)))
        dims.append(inner)
    signature = Signature((TensorSpec("x", Datatype.FP32, (DYNAMIC,) if batchable else (1,)),), tuple(specs), batchable)
    return model(choice.choice(["m", "модель", "m" * 200]), choice.choice([0, 7, 123456789]), signature), dims


def drawn_batch(choice, known, dims):
    """Draw the requests of one batch, as (id, first row, rows, asked outputs), and its output arrays."""
    requests, row = [], 0
    outputs = range(len(known.signature.outputs))
    for _ in range(choice.randrange(1, 6) if known.signature.batchable else 1):
        count = choice.choice([1, 2, 130]) if known.signature.batchable else 1
        asked = choice.sample(outputs, choice.randrange(1, len(outputs) + 1))
        requests.append((choice.choice(IDS), row, count, asked))
        row += count
    generator = np.random.default_rng(choice.randrange(2**32))
    arrays = []
    for spec, inner in zip(known.signature.outputs, dims, strict=True):
        shape = (row, *inner) if known.signature.batchable else inner
        noise = generator.integers(0, 2, int(np.prod(shape)) * spec.datatype.item_bytes, np.uint8)
        arrays.append(noise.view(spec.datatype.dtype).reshape(shape))
    return requests, arrays


def expected(known, request, arrays):
    name, row, count, asked = request
    specs = known.signature.outputs
    batchable = known.signature.batchable
    tensors = tuple(
        OutputTensor(specs[k].name, specs[k].datatype, arrays[k][row : row + count] if batchable else arrays[k])
        for k in asked
    )
    return b"".join(encode_answer(InferAnswer(known.name, known.version, name, tensors, raw=True)))


def check_batch(choice):
    known, dims = drawn_model(choice)
    requests, arrays = drawn_batch(choice, known, dims)
    chosen = choice.sample(range(len(requests)), choice.randrange(len(requests) + 1))
    answers = Writer(known).write(
        requests, arrays, chosen, row=choice.randrange(100), before=choice.randrange(20), after=choice.randrange(20)
    )
    assert answers == [expected(known, requests[k], arrays) for k in chosen]


def run_answers(seed, count):
    """Check a seeded corpus of batches."""
    choice = random.Random(seed)
    for _ in range(count):
        check_batch(choice)


@given(st.integers(0, 2**64))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_answers_are_the_bytes_that_protobuf_would_write(seed):
    check_batch(random.Random(seed))
