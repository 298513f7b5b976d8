"""Pipelines around a model that is only a signature, and the slow twins of their steps."""

import math
from pathlib import Path

import numpy as np

from serving.config import PipelineConfig
from serving.pipeline.composition import Surroundings
from serving.pipeline.files import FolderFiles
from serving.pipeline.pipeline import Pipeline
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec

_BUILT: dict[str, Pipeline] = {}
OF_DTYPE = {kind.dtype: kind for kind in Datatype if kind is not Datatype.BF16}


def spec(name, array):
    return TensorSpec(name, OF_DTYPE[array.dtype], (DYNAMIC, *array.shape[1:]))


def declared(name, array):
    return {"name": name, "datatype": OF_DTYPE[array.dtype].wire_name, "shape": [-1, *array.shape[1:]]}


def pipeline(config, inputs=(), outputs=(), folder=Path(), **surroundings):
    """Build a pipeline for a model of these specs."""
    outputs = outputs or (TensorSpec("unused", Datatype.FP32, (DYNAMIC,)),)
    key = repr((config, inputs, outputs, folder, surroundings))
    if key not in _BUILT:
        signature = Signature(tuple(inputs), tuple(outputs), True)
        _BUILT[key] = Pipeline(config, signature, Surroundings(FolderFiles(folder), **surroundings))
    return _BUILT[key]


def before(steps, given, wanted, folder=Path(), **surroundings):
    """Run preprocessing on named arrays; `wanted` is an array of the dtype and the shape of a row that must come."""
    config = PipelineConfig(
        inputs=tuple(declared(name, array) for name, array in given.items()), preprocess=tuple(steps)
    )
    built = pipeline(config, [spec(steps[-1].get("output", next(iter(given))), wanted)], folder=folder, **surroundings)
    return built.preprocess([given[item.name] for item in built.signature.inputs], "test")[0]


def after(steps, given, names=None):
    """Run postprocessing on named arrays."""
    config = PipelineConfig(postprocess=tuple(steps), outputs=tuple(names or ()))
    built = pipeline(config, outputs=[spec(name, array) for name, array in given.items()])
    outputs = built.postprocess(list(given.values()), "test", ())
    return dict(zip((item.name for item in built.signature.outputs), outputs, strict=True))


# ---- slow twins: one Python number at a time, written from the definitions -----------------------------------------


def per_number(function, array, dtype=None):
    """Apply a function of (number, column) to every number."""
    result = np.empty(array.shape, dtype or array.dtype)
    for place in np.ndindex(array.shape):
        result[place] = function(array[place], place[-1] if len(place) > 1 else 0)
    return result


def clip(number, low, high):
    if math.isnan(number):
        return number
    return sorted((low, number, high))[1] if low <= high else number


def bucket(number, boundaries, right):
    return sum(boundary < number if right else boundary <= number for boundary in boundaries)


def sigmoid(number):
    """By the form that is accurate on each side of 0."""
    number = float(number)
    return 1 / (1 + math.exp(-number)) if number >= 0 else math.exp(number) / (1 + math.exp(number))


def softmax(vector):
    """In exact sums of double precision."""
    highest = max(map(float, vector))
    powers = [math.exp(float(number) - highest) for number in vector]
    return [power / math.fsum(powers) for power in powers]


def unit(vector):
    length = math.hypot(*map(float, vector))
    return [float(number) / length if length else number for number in vector]


def highest(vector, count):
    """Return (number, place) of the highest numbers, the first of equals first."""
    return sorted(((number, place) for place, number in enumerate(vector)), key=lambda pair: -pair[0])[:count]


def murmur3(octets, seed):
    """MurmurHash3_x86_32, from its description."""
    mask, state = 0xFFFFFFFF, seed

    def rotated(word, by):
        return ((word << by) | (word >> (32 - by))) & mask

    for begin in range(0, len(octets), 4):
        block = octets[begin : begin + 4]
        word = int.from_bytes(block, "little") * 0xCC9E2D51 & mask
        state ^= rotated(word, 15) * 0x1B873593 & mask
        if len(block) == 4:
            state = (rotated(state, 13) * 5 + 0xE6546B64) & mask
    state ^= len(octets)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        state = (state ^ (state >> shift)) * factor & mask
    return state
