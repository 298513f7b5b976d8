"""What is done to whole arrays, as numba compiles it and as plain Python. Knows numpy and no step.

Nothing is allocated here. `flaws` [rows] takes `mark` where a row holds what a kernel cannot take and no step before
has marked it; such a kernel returns how many it has marked.
"""

from typing import Any

import numpy as np


def select(rows: Any, out: Any, columns: Any) -> None:
    """Copy columns of [rows, columns], in the order of `columns`."""
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            out[row, column] = rows[row, columns[column]]


def concat_2(one: Any, two: Any, out: Any) -> None:
    """Put two [rows, columns] side by side."""
    width = one.shape[1]
    for row in range(out.shape[0]):
        for column in range(width):
            out[row, column] = one[row, column]
        for column in range(two.shape[1]):
            out[row, width + column] = two[row, column]


def one_hot(values: Any, out: Any, categories: Any, ends: Any, ignores: Any, flaws: Any, mark: Any) -> Any:
    """Write 1 where a value of [rows, columns] is a category, else 0.

    Column c knows categories[ends[c] : ends[c + 1]], in the order of what is written. With `ignores` 0 an unknown value
    marks its row.
    """
    marked = 0
    for row in range(values.shape[0]):
        unknown = False
        for column in range(values.shape[1]):
            value, found = values[row, column], False
            for place in range(ends[column], ends[column + 1]):
                is_it = value == categories[place]
                out[row, place] = is_it
                found |= is_it
            unknown |= not found
        if unknown and not ignores[0] and flaws[row] == 0:
            flaws[row] = mark
            marked += 1
    return marked


def ordinal(values: Any, out: Any, categories: Any, ends: Any, unknown: Any, flaws: Any, mark: Any) -> Any:
    """Write each value's place among its column's categories, as in `one_hot`; unknown[1] for an unknown value.

    With unknown[0] 0 an unknown value marks its row.
    """
    marked = 0
    for row in range(values.shape[0]):
        refused = False
        for column in range(values.shape[1]):
            begin, place = ends[column], ends[column]
            while place < ends[column + 1] and values[row, column] != categories[place]:
                place += 1
            is_known = place < ends[column + 1]
            out[row, column] = place - begin if is_known else unknown[1]
            refused |= not is_known
        if refused and not unknown[0] and flaws[row] == 0:
            flaws[row] = mark
            marked += 1
    return marked


def softmax(logits: Any, out: Any) -> None:
    """Write exp(x - max) / sum of each vector, which no finite logit can make overflow."""
    for row in range(logits.shape[0]):
        highest = logits[row, 0] if logits.shape[1] else 0
        for column in range(1, logits.shape[1]):
            highest = max(highest, logits[row, column])
        total = 0.0
        for column in range(logits.shape[1]):
            power = np.exp(logits[row, column] - highest)
            out[row, column] = power
            total += power
        for column in range(logits.shape[1]):
            out[row, column] /= total


def argmax(scores: Any, out: Any) -> None:
    """Write where each vector's highest number stands: the first of equals; NaN counts as highest, as in numpy."""
    for row in range(scores.shape[0]):
        best = 0
        for column in range(1, scores.shape[1]):
            highest, score = scores[row, best], scores[row, column]
            if highest == highest and not score <= highest:
                best = column
        out[row] = best


def top_k(scores: Any, values: Any, places: Any) -> None:
    """Write the highest numbers of each vector, from the highest on, and where they stand; of equals the first.

    NaN counts as highest, as in `argmax`.
    """
    for row in range(scores.shape[0]):
        count = 0
        for column in range(scores.shape[1]):
            score = scores[row, column]
            if count == values.shape[1]:
                last = values[row, count - 1]
                if score <= last or last != last:
                    continue
            place = count if count < values.shape[1] else count - 1
            while (
                place > 0 and not score <= values[row, place - 1] and values[row, place - 1] == values[row, place - 1]
            ):
                if place < values.shape[1]:
                    values[row, place] = values[row, place - 1]
                    places[row, place] = places[row, place - 1]
                place -= 1
            values[row, place] = score
            places[row, place] = column
            count = min(count + 1, values.shape[1])


def l2_normalise(vectors: Any, out: Any) -> None:
    """Divide each vector by its length; one of zeros stays. Squares of scaled numbers neither overflow nor vanish."""
    for row in range(vectors.shape[0]):
        largest = 0.0
        for column in range(vectors.shape[1]):
            largest = max(largest, abs(float(vectors[row, column])))
        total = 0.0
        if largest > 0:
            for column in range(vectors.shape[1]):
                part = vectors[row, column] / largest
                total += part * part
        length = np.sqrt(total)
        for column in range(vectors.shape[1]):
            out[row, column] = vectors[row, column] / largest / length if largest > 0 else vectors[row, column]


def pool_mean(values: Any, out: Any) -> None:
    """Write the mean over the middle of [rows, places, columns]; of no places, 0."""
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            total = 0.0
            for place in range(values.shape[1]):
                total += values[row, place, column] / values.shape[1]
            out[row, column] = total


def pool_max(values: Any, out: Any) -> None:
    """Write the highest number over the middle of [rows, places, columns]; of no places, 0. NaN counts as highest."""
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            highest = values[row, 0, column] if values.shape[1] else 0
            for place in range(1, values.shape[1]):
                value = values[row, place, column]
                if highest == highest and not value <= highest:
                    highest = value
            out[row, column] = highest


def boxes(
    given: Any, scores: Any, out: Any, out_scores: Any, out_classes: Any, left: Any, classes: Any, settings: Any
) -> None:
    """Keep, of boxes [rows, boxes, 4] with scores [rows, boxes, classes], the best that do not cover one another.

    `out` are corners (x1, y1, x2, y2); what is not filled is 0, and its class -1. A box counts for its best class.
    `settings` are the least score, the largest overlap (intersection over union, of boxes of one class), and whether
    boxes come as centre, width and height. `left` and `classes` [rows, boxes] are scratch. Greedy, by score; of equals
    the first.
    """
    for row in range(given.shape[0]):
        for box in range(given.shape[1]):
            best = 0
            for kind in range(1, scores.shape[2]):
                if scores[row, box, kind] > scores[row, box, best]:
                    best = kind
            classes[row, box] = best
            left[row, box] = scores[row, box, best] if scores[row, box, best] >= settings[0] else -np.inf
        out[row] = 0
        out_scores[row] = 0
        out_classes[row] = -1
        for place in range(out.shape[1]):
            best = -1
            for box in range(given.shape[1]):
                if left[row, box] > (-np.inf if best < 0 else left[row, best]):
                    best = box
            if best < 0:
                break
            out_scores[row, place] = left[row, best]
            out_classes[row, place] = classes[row, best]
            x, y, right, bottom = given[row, best, 0], given[row, best, 1], given[row, best, 2], given[row, best, 3]
            if settings[2] != 0:
                x, y, right, bottom = x - right / 2, y - bottom / 2, x + right / 2, y + bottom / 2
            out[row, place, 0], out[row, place, 1], out[row, place, 2], out[row, place, 3] = x, y, right, bottom
            area = max(0.0, float(right) - x) * max(0.0, float(bottom) - y)
            left[row, best] = -np.inf
            for box in range(given.shape[1]):
                if left[row, box] == -np.inf or classes[row, box] != out_classes[row, place]:
                    continue
                x1, y1, x2, y2 = given[row, box, 0], given[row, box, 1], given[row, box, 2], given[row, box, 3]
                if settings[2] != 0:
                    x1, y1, x2, y2 = x1 - x2 / 2, y1 - y2 / 2, x1 + x2 / 2, y1 + y2 / 2
                common = max(0.0, float(min(right, x2)) - max(x, x1)) * max(0.0, float(min(bottom, y2)) - max(y, y1))
                union = area + max(0.0, float(x2) - x1) * max(0.0, float(y2) - y1) - common
                if common > settings[1] * union:
                    left[row, box] = -np.inf


def murmur3(octets: Any, ends: Any, out: Any, settings: Any) -> None:
    """Write the bucket of each string octets[ends[k] : ends[k + 1]]: MurmurHash3 (32 bits) modulo settings[1].

    The seed is settings[0]. Source: Appleby, MurmurHash3_x86_32.
    """
    mask = np.uint64(0xFFFFFFFF)
    for text in range(out.shape[0]):
        state, begin, end = np.uint64(settings[0]), ends[text], ends[text + 1]
        for at in range(begin, end, 4):
            word = np.uint64(0)
            for place in range(min(4, end - at)):
                word |= np.uint64(octets[at + place]) << np.uint64(8 * place)
            word = (word * np.uint64(0xCC9E2D51)) & mask
            word = ((word << np.uint64(15)) | (word >> np.uint64(17))) & mask
            state ^= (word * np.uint64(0x1B873593)) & mask
            if at + 4 <= end:
                state = ((state << np.uint64(13)) | (state >> np.uint64(19))) & mask
                state = (state * np.uint64(5) + np.uint64(0xE6546B64)) & mask
        state ^= np.uint64(end - begin)
        state ^= state >> np.uint64(16)
        state = (state * np.uint64(0x85EBCA6B)) & mask
        state ^= state >> np.uint64(13)
        state = (state * np.uint64(0xC2B2AE35)) & mask
        state ^= state >> np.uint64(16)
        out[text] = np.int64(state % np.uint64(settings[1]))


def channels_first(images: Any, out: Any) -> None:
    """Turn [rows, height, width, channels] into [rows, channels, height, width]."""
    for row in range(images.shape[0]):
        for channel in range(images.shape[3]):
            for y in range(images.shape[1]):
                for x in range(images.shape[2]):
                    out[row, channel, y, x] = images[row, y, x, channel]


def channels_last(images: Any, out: Any) -> None:
    """Turn [rows, channels, height, width] into [rows, height, width, channels]."""
    for row in range(images.shape[0]):
        for y in range(images.shape[2]):
            for x in range(images.shape[3]):
                for channel in range(images.shape[1]):
                    out[row, y, x, channel] = images[row, channel, y, x]
