"""What is done to one image, [height, width, channels] of UINT8, as numba compiles it. Knows numpy and no step.

Resizing is a weighted sum of rows, then of columns, in FP32, rounded once. Sources: the kernels are the triangle and
Keys' cubic with a = -0.5, stretched when an image shrinks (antialiasing), as in Pillow; without that, and for pixel
centres in general, as in OpenCV.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.pipeline.compiler import readable, standalone, writable
from serving.types import Array

LENGTH_MAX = 16_384
"""The longest side of an image: resizing needs memory for each pixel of it."""
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


@dataclass(frozen=True, slots=True)
class Resize:
    """Bringing an image to another size, as a function of the image. Raises ValueError."""

    height: int
    width: int
    method: str
    antialias: bool

    def __call__(self, image: Array) -> Array:
        """See `resized`."""
        return resized(image, self.height, self.width, self.method, antialias=self.antialias)


def check_sides(image: Array) -> None:
    """Refuse an image without pixels, or with a longer side than resizing has memory for. Raises ValueError."""
    height, width = image.shape[:2]
    if not 0 < min(height, width) <= max(height, width) <= LENGTH_MAX:
        raise ValueError(f"an image of {width} x {height} came, expected 1 to {LENGTH_MAX} on each side")


def resized(image: Array, height: int, width: int, method: str, *, antialias: bool) -> Array:
    """Return an image in another size. Of two equal sizes, it is the image itself. Raises ValueError."""
    check_sides(image)
    if image.shape[:2] == (height, width):
        return image
    if method == "nearest":
        return np.ascontiguousarray(image[nearest(image.shape[0], height)][:, nearest(image.shape[1], width)])
    row_starts, row_weights = weights(image.shape[0], height, method, antialias)
    column_starts, column_weights = weights(image.shape[1], width, method, antialias)
    channels = image.shape[2]
    out = np.empty((height, width, channels), np.uint8)
    scratch = np.empty(image.shape[1] * channels, np.float32)
    flat, target = image.reshape(image.shape[0], -1), out.reshape(height, -1)
    columns = (column_starts, column_weights)
    resampling()(flat, row_starts, row_weights, *columns, scratch, target, _counts(channels))
    return out


def nearest(length: int, wanted: int) -> NDArray[np.int64]:
    """Return which pixel's area the centre of each wanted pixel lies in, in one direction."""
    places: NDArray[np.int64] = np.floor((np.arange(wanted) + 0.5) * (length / wanted)).astype(np.int64)
    return np.minimum(places, length - 1)


@functools.lru_cache(64)
def weights(length: int, wanted: int, method: str, antialias: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return, for each wanted pixel, the first that it is made of, and the weights [wanted, taps] from there on."""
    scale = length / wanted
    stretch = max(scale, 1.0) if antialias else 1.0
    reach = SUPPORT[method] * stretch
    centres = (np.arange(wanted) + 0.5) * scale
    taps = min(length, int(np.ceil(2 * reach)) + 2)
    starts = np.clip(np.floor(centres - reach).astype(np.int64), 0, length - taps)
    pixels = starts[:, None] + np.arange(taps)
    if antialias:
        values = _kernel((pixels + 0.5 - centres[:, None]) / stretch, method)
    else:  # what lies beyond the edge is the edge
        values = np.zeros(pixels.shape)
        beyond = np.floor(centres - 0.5).astype(np.int64)[:, None] + np.arange(1 - int(reach), 1 + int(reach))
        parts = _kernel(beyond + 0.5 - centres[:, None], method)
        for column in range(beyond.shape[1]):
            place = np.clip(beyond[:, column], 0, length - 1) - starts
            values[np.arange(wanted), place] += parts[:, column]
    values /= values.sum(axis=1, keepdims=True)
    return starts, values.astype(np.float32)


def _kernel(distances: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    """Return the weight of a pixel at a distance from the centre."""
    x = np.abs(distances)
    if method == "bilinear":
        x = 1 - x
        x[x < 0] = 0
        return x
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    near[x >= 1] = far[x >= 1]
    near[x >= 2] = 0
    return near


def resample(
    image: Any, row_starts: Any, row_weights: Any, column_starts: Any, column_weights: Any, scratch: Any, out: Any,
    channels: Any,
) -> None:  # fmt: skip
    """Write `out` [height, width * channels]; each of its rows is summed into `scratch` [columns of image] first."""
    count, columns, taps = channels[0], scratch.shape[0], column_weights.shape[1]
    for row in range(out.shape[0]):
        first = row_starts[row]
        for column in range(columns):
            scratch[column] = row_weights[row, 0] * np.float32(image[first, column])
        for tap in range(1, row_weights.shape[1]):
            weight = row_weights[row, tap]
            if weight != 0:
                for column in range(columns):
                    scratch[column] += weight * np.float32(image[first + tap, column])
        if count == 3:  # by far the usual case: its three sums run side by side
            for pixel in range(column_starts.shape[0]):
                at = column_starts[pixel] * 3
                red, green, blue = np.float32(0.5), np.float32(0.5), np.float32(0.5)
                for tap in range(taps):
                    weight = column_weights[pixel, tap]
                    red += weight * scratch[at]
                    green += weight * scratch[at + 1]
                    blue += weight * scratch[at + 2]
                    at += 3
                out[row, pixel * 3] = np.uint8(min(max(red, np.float32(0)), np.float32(255)))
                out[row, pixel * 3 + 1] = np.uint8(min(max(green, np.float32(0)), np.float32(255)))
                out[row, pixel * 3 + 2] = np.uint8(min(max(blue, np.float32(0)), np.float32(255)))
            continue
        for pixel in range(column_starts.shape[0]):
            begin = column_starts[pixel] * count
            for channel in range(count):
                total = np.float32(0.5)
                at = begin + channel
                for tap in range(taps):
                    total += column_weights[pixel, tap] * scratch[at]
                    at += count
                out[row, pixel * count + channel] = np.uint8(min(max(total, np.float32(0)), np.float32(255)))


@functools.cache
def resampling() -> Any:
    """Compile `resample`, or load it."""
    octets, integers, floats = (np.dtype(kind) for kind in (np.uint8, np.int64, np.float32))
    read = [readable(octets, 2), readable(integers, 1), readable(floats, 2), readable(integers, 1), readable(floats, 2)]
    return standalone(resample, [*read, writable(floats, 1), writable(octets, 2), readable(integers, 1)])


@functools.cache
def _counts(channels: int) -> NDArray[np.int64]:
    return np.array([channels], np.int64)
