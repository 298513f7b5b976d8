"""Twins of the CPU's kernels, one function for one of many threads; arguments are those of the CPU's.

A function begins at its thread's first item, and goes on by as many as there are threads; or at its block's, whose
threads share a vector out and put together, in shared memory, what each has found. All threads of a block meet at every
`syncthreads`, so no branch around one differs within a block. Like the CPU's, they allocate nothing.
"""

import math
from typing import Any

import numpy as np
from numba import cuda, float64, int64

from serving.gpu.device import BLOCK_THREADS, device_function
from serving.pipeline.gpu.elements import higher, lower


@device_function
def _sum(parts: Any) -> Any:
    """Add up what each thread of the block has put into `parts`."""
    thread, half = cuda.threadIdx.x, parts.shape[0] // 2
    cuda.syncthreads()
    while half > 0:
        if thread < half:
            parts[thread] += parts[thread + half]
        cuda.syncthreads()
        half //= 2
    result = parts[0]
    cuda.syncthreads()  # the next one to use `parts` waits until all have read this
    return result


@device_function
def _maximum(parts: Any) -> Any:
    """Return the highest of what each thread of the block has put into `parts`."""
    thread, half = cuda.threadIdx.x, parts.shape[0] // 2
    cuda.syncthreads()
    while half > 0:
        if thread < half:
            parts[thread] = max(parts[thread], parts[thread + half])
        cuda.syncthreads()
        half //= 2
    result = parts[0]
    cuda.syncthreads()
    return result


@device_function
def _beats(score: Any, place: Any, other: Any, of: Any) -> Any:
    """Say whether one number comes before another: it is higher, or as high and stands first; NaN is highest."""
    if score != score:
        return other == other or place < of
    if other != other:
        return False
    return score > other or (score == other and place < of)


@device_function
def _best(scores: Any, row: Any, places: Any) -> Any:
    """Return the place, of those that each thread has put into `places`, of the best score; -1 stands for none."""
    thread, half = cuda.threadIdx.x, places.shape[0] // 2
    cuda.syncthreads()
    while half > 0:
        if thread < half:
            mine, theirs = places[thread], places[thread + half]
            if theirs >= 0 and (mine < 0 or _beats(scores[row, theirs], theirs, scores[row, mine], mine)):
                places[thread] = theirs
        cuda.syncthreads()
        half //= 2
    result = places[0]
    cuda.syncthreads()
    return result


def softmax(logits: Any, out: Any) -> None:
    """Write exp(x - max) / sum of each vector, a block for each."""
    parts = cuda.shared.array(BLOCK_THREADS, float64)
    thread, columns = cuda.threadIdx.x, logits.shape[1]
    for row in range(cuda.blockIdx.x, logits.shape[0], cuda.gridDim.x):
        highest = -math.inf
        for column in range(thread, columns, BLOCK_THREADS):
            highest = max(highest, float(logits[row, column]))
        parts[thread] = highest
        highest = _maximum(parts)
        total = 0.0
        for column in range(thread, columns, BLOCK_THREADS):
            power = math.exp(logits[row, column] - out.dtype.type(highest))
            out[row, column] = power
            total += power
        parts[thread] = total
        total = _sum(parts)
        for column in range(thread, columns, BLOCK_THREADS):
            out[row, column] = out[row, column] / total


def argmax(scores: Any, out: Any) -> None:
    """Write where each vector's highest number stands, a block for each."""
    places = cuda.shared.array(BLOCK_THREADS, int64)
    thread = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, scores.shape[0], cuda.gridDim.x):
        best = -1
        for column in range(thread, scores.shape[1], BLOCK_THREADS):
            if best < 0 or _beats(scores[row, column], column, scores[row, best], best):
                best = column
        places[thread] = best
        best = _best(scores, row, places)
        if thread == 0:
            out[row] = best


def top_k(scores: Any, values: Any, places: Any) -> None:
    """Write the highest numbers of each vector and where they stand, a block for each: one search for each number."""
    found = cuda.shared.array(BLOCK_THREADS, int64)
    thread = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, scores.shape[0], cuda.gridDim.x):
        last = -1
        for rank in range(values.shape[1]):
            best = -1
            for column in range(thread, scores.shape[1], BLOCK_THREADS):
                score = scores[row, column]
                if last >= 0 and not _beats(scores[row, last], last, score, column):
                    continue  # it has been written
                if best < 0 or _beats(score, column, scores[row, best], best):
                    best = column
            found[thread] = best
            last = _best(scores, row, found)
            if thread == 0:
                values[row, rank] = scores[row, last]
                places[row, rank] = last


def l2_normalise(vectors: Any, out: Any) -> None:
    """Divide each vector by its length, a block for each; one of zeros stays."""
    parts = cuda.shared.array(BLOCK_THREADS, float64)
    thread, columns = cuda.threadIdx.x, vectors.shape[1]
    for row in range(cuda.blockIdx.x, vectors.shape[0], cuda.gridDim.x):
        largest = 0.0
        for column in range(thread, columns, BLOCK_THREADS):
            largest = max(largest, abs(float(vectors[row, column])))
        parts[thread] = largest
        largest = _maximum(parts)
        total = 0.0
        if largest > 0:
            for column in range(thread, columns, BLOCK_THREADS):
                scaled = float(vectors[row, column]) / largest
                total += scaled * scaled
        parts[thread] = total
        length = math.sqrt(_sum(parts))
        for column in range(thread, columns, BLOCK_THREADS):
            value = vectors[row, column]
            out[row, column] = float(value) / largest / length if largest > 0 else float(value)


def pool_mean(values: Any, out: Any) -> None:
    """Write the mean over the middle of [rows, places, columns]; of no places, 0."""
    columns = out.shape[1]
    for item in range(cuda.grid(1), out.shape[0] * columns, cuda.gridsize(1)):
        row, column = item // columns, item % columns
        total = 0.0
        for place in range(values.shape[1]):
            total += float(values[row, place, column]) / values.shape[1]
        out[row, column] = total


def pool_max(values: Any, out: Any) -> None:
    """Write the highest number over the middle of [rows, places, columns]; of no places, 0. NaN counts as highest."""
    columns = out.shape[1]
    for item in range(cuda.grid(1), out.shape[0] * columns, cuda.gridsize(1)):
        row, column = item // columns, item % columns
        highest = values[row, 0, column] if values.shape[1] else 0
        for place in range(1, values.shape[1]):
            value = values[row, place, column]
            if highest == highest and not value <= highest:
                highest = value
        out[row, column] = highest


def select(rows: Any, out: Any, columns: Any) -> None:
    """Copy columns of [rows, columns], in the order of `columns`."""
    width = out.shape[1]
    for item in range(cuda.grid(1), out.shape[0] * width, cuda.gridsize(1)):
        row, column = item // width, item % width
        out[row, column] = rows[row, columns[column]]


def concat_2(one: Any, two: Any, out: Any) -> None:
    """Put two [rows, columns] side by side."""
    width, first = out.shape[1], one.shape[1]
    for item in range(cuda.grid(1), out.shape[0] * width, cuda.gridsize(1)):
        row, column = item // width, item % width
        out[row, column] = one[row, column] if column < first else two[row, column - first]


@device_function
def _place(item: Any, out: Any) -> Any:
    """Return the four indices of a number in [rows, ...], of its place among all numbers."""
    above, last = item // out.shape[3], item % out.shape[3]
    above, third = above // out.shape[2], above % out.shape[2]
    return above // out.shape[1], above % out.shape[1], third, last


def channels_first(images: Any, out: Any) -> None:
    """Turn [rows, height, width, channels] into [rows, channels, height, width]."""
    for item in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        row, channel, y, x = _place(item, out)
        out[row, channel, y, x] = images[row, y, x, channel]


def channels_last(images: Any, out: Any) -> None:
    """Turn [rows, channels, height, width] into [rows, height, width, channels]."""
    for item in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        row, y, x, channel = _place(item, out)
        out[row, y, x, channel] = images[row, channel, y, x]


@device_function
def _corners(given: Any, row: Any, box: Any, is_centre: Any) -> Any:
    """Return x1, y1, x2, y2 of a box, in FP64."""
    one, two = float(given[row, box, 0]), float(given[row, box, 1])
    three, four = float(given[row, box, 2]), float(given[row, box, 3])
    if is_centre != 0:
        return one - three / 2, two - four / 2, one + three / 2, two + four / 2
    return one, two, three, four


@device_function
def _best_class(scores: Any, row: Any, box: Any) -> Any:
    """Return the class of a box's highest score, the first of several."""
    best = 0
    for kind in range(1, scores.shape[2]):
        if scores[row, box, kind] > scores[row, box, best]:
            best = kind
    return best


def boxes(
    given: Any, scores: Any, out: Any, out_scores: Any, out_classes: Any, left: Any, classes: Any, settings: Any
) -> None:
    """Keep, of boxes [rows, boxes, 4], the best that do not cover one another, a block for each row: as on the CPU.

    Its threads look for the best box that is left, one of them writes it, and all strike out what it covers.
    """
    found = cuda.shared.array(BLOCK_THREADS, int64)
    thread = cuda.threadIdx.x
    for row in range(cuda.blockIdx.x, given.shape[0], cuda.gridDim.x):
        for box in range(thread, given.shape[1], BLOCK_THREADS):
            kind = _best_class(scores, row, box)
            score = scores[row, box, kind]
            classes[row, box] = kind
            left[row, box] = score if score >= settings[0] else -math.inf
        for place in range(thread, out.shape[1], BLOCK_THREADS):
            for side in range(4):
                out[row, place, side] = 0
            out_scores[row, place] = 0
            out_classes[row, place] = -1
        cuda.syncthreads()  # places were emptied by other threads than the one that fills them
        for place in range(out.shape[1]):
            best = -1
            for box in range(thread, given.shape[1], BLOCK_THREADS):
                if left[row, box] > (-math.inf if best < 0 else left[row, best]):
                    best = box
            found[thread] = best
            best = _best(left, row, found)
            if best < 0:
                break
            x, y, right, bottom = _corners(given, row, best, settings[2])
            area = max(0.0, right - x) * max(0.0, bottom - y)
            if thread == 0:
                out_scores[row, place] = left[row, best]
                out_classes[row, place] = classes[row, best]
                out[row, place, 0], out[row, place, 1], out[row, place, 2], out[row, place, 3] = x, y, right, bottom
            cuda.syncthreads()  # its score is read before it is struck out
            for box in range(thread, given.shape[1], BLOCK_THREADS):
                if left[row, box] == -math.inf or classes[row, box] != classes[row, best]:
                    continue
                x1, y1, x2, y2 = _corners(given, row, box, settings[2])
                across = max(0.0, lower(right, x2) - higher(x, x1))
                common = across * max(0.0, lower(bottom, y2) - higher(y, y1))
                union = area + max(0.0, x2 - x1) * max(0.0, y2 - y1) - common
                if box == best or common > settings[1] * union:
                    left[row, box] = -math.inf


def resample(images: Any, out: Any, row_starts: Any, row_weights: Any, column_starts: Any, column_weights: Any) -> None:
    """Resize [rows, height, width, channels] of UINT8: sums of columns' sums, in FP32 and the CPU's order.

    Both directions in one pass: the CPU's sums of whole rows would be written to memory and read again.
    """
    for item in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        row, y, x, channel = _place(item, out)
        top, left, total = row_starts[y], column_starts[x], np.float32(0.5)
        for place in range(column_weights.shape[1]):
            column = row_weights[y, 0] * np.float32(images[row, top, left + place, channel])
            for below in range(1, row_weights.shape[1]):
                weight = row_weights[y, below]
                if weight != 0:
                    column += weight * np.float32(images[row, top + below, left + place, channel])
            total += column_weights[x, place] * column
        out[row, y, x, channel] = np.uint8(min(max(total, np.float32(0)), np.float32(255)))


def nearest(images: Any, out: Any, rows: Any, columns: Any) -> None:
    """Resize [rows, height, width, channels], taking for each pixel the one at rows[y], columns[x]."""
    for item in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        row, y, x, channel = _place(item, out)
        out[row, y, x, channel] = images[row, rows[y], columns[x], channel]
