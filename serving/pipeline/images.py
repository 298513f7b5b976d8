"""The steps for images: from JPEG or PNG in BYTES to tensors. Builders of drafts.

Steps up to the one that brings all images to one size run row by row, so that of all images of a batch only as many as
there are cores are decoded at a time.
"""

import functools
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.pipeline import elements, image_files, kernels, pixels, signals
from serving.pipeline.parameters import Parameters
from serving.pipeline.step import Dims, Draft, Element, Flow, Kernel, PerRow, as_it_is
from serving.pipeline.tabular import NUMBERS, columns
from serving.types import DYNAMIC, Array, Datatype

SIDE_MAX = 8192
PIXELS_MAX = 50_000_000
"""The most that `pixels_max` may say: Pillow itself warns from 89 million pixels on."""
FORMATS = ("JPEG", "PNG")
_CHANNELS = {"RGB": 3, "L": 1}
_WIDE_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
"""What Pillow calls grey levels of 16 bits, which its own conversion would cut off at 255."""


def decode_image(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Decode JPEG or PNG into UINT8 [height, width, channels] of `mode`, RGB or L.

    `pixels_max` and `bytes_max` bound an image. Others than of that mode are refused, or with `convert` converted.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - behind an extra
    except ImportError:
        raise parameters.error("needs Pillow: pip install 'penstock[image]'") from None
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `pixels_max` is less, and says so to the client
    if not reads[0].spec.is_binary or reads[0].dims not in {(), (1,)}:
        raise parameters.error(
            f"'{reads[0].spec.name}' is not one binary string per row; declare binary = true, and shape = [-1]"
        )
    mode = parameters.text("mode", "RGB", tuple(_CHANNELS))
    work = _Decoder(
        Image,
        mode,
        parameters.whole("pixels_max", 16_000_000, maximum=PIXELS_MAX),
        parameters.whole("bytes_max", 16 << 20),
        parameters.flag("convert", default=False),
    )
    dims = (DYNAMIC, DYNAMIC, _CHANNELS[mode])
    return Draft(PerRow(work), (Datatype.UINT8,), lambda _: (dims,), is_ragged=True)


def resize(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Bring images to `height` and `width` by `method`; `antialias` averages what shrinks."""
    height, width = _size(parameters)
    method, antialias = _method(parameters)
    work = pixels.Resize(height, width, method, antialias)
    return _to_size(parameters, reads[0], work, height, width)


def crop(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Cut `height` by `width` out of the middle; smaller images are refused."""
    height, width = _size(parameters)
    return _to_size(parameters, reads[0], functools.partial(_crop, height=height, width=width), height, width)


def letterbox(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Fit images into `height` by `width` in their own proportions, in the middle of a colour, `fill`."""
    height, width = _size(parameters)
    method, antialias = _method(parameters)
    fill = parameters.whole("fill", 114, minimum=0, maximum=255)
    fit = functools.partial(pixels.resized, method=method, antialias=antialias)
    work = functools.partial(_letterbox, fit=fit, height=height, width=width, fill=fill)
    return _to_size(parameters, reads[0], work, height, width)


def normalise(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Compute (x * factor - mean) / std in FP32: one number for all channels, which are last, or one for each."""
    if reads[0].spec.datatype not in NUMBERS or reads[0].is_ragged:
        raise parameters.error(f"'{reads[0].spec.name}' is no tensor of numbers in one shape; resize images first")
    kind, count = Datatype.FP32, columns(reads[0])
    factor = parameters.numbers("factor", 1 / 255, count, kind)
    mean = parameters.numbers("mean", 0.0, count, kind)
    std = parameters.numbers("std", 1.0, count, kind)
    if not std.array.all():
        raise parameters.error("std holds a 0, expected numbers to divide by")
    work = Element(elements.normalise, kind, (factor, mean, std), elements.refuses_overflow, signals.overflow_32)
    return Draft(work, (kind,), lambda dims: (dims[0],), "expected a result that fits FP32")


def layout(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Turn [height, width, channels] into [channels, height, width] (`to` = NCHW), or back (NHWC)."""
    flow = reads[0]
    target = parameters.text("to", choices=("NCHW", "NHWC"))
    if flow.spec.datatype not in NUMBERS or flow.is_ragged or len(flow.dims) != 3:
        raise parameters.error(f"'{flow.spec.name}' has shape {list(flow.spec.shape)}, expected images of one size")
    if target == "NCHW":
        return Draft(Kernel(kernels.channels_first, (as_it_is, as_it_is)), (flow.spec.datatype,), _channels_first)
    return Draft(Kernel(kernels.channels_last, (as_it_is, as_it_is)), (flow.spec.datatype,), _channels_last)


def _channels_first(dims: Sequence[Dims]) -> tuple[Dims, ...]:
    height, width, channels = dims[0]
    return ((channels, height, width),)


def _channels_last(dims: Sequence[Dims]) -> tuple[Dims, ...]:
    channels, height, width = dims[0]
    return ((height, width, channels),)


def _size(parameters: Parameters) -> tuple[int, int]:
    return parameters.whole("height", maximum=SIDE_MAX), parameters.whole("width", maximum=SIDE_MAX)


def _method(parameters: Parameters) -> tuple[str, bool]:
    method = parameters.text("method", "bilinear", ("nearest", *pixels.SUPPORT))
    antialias = parameters.flag("antialias", default=True)
    if method != "nearest":
        pixels.resampling()  # compiled when the model is loaded, not in its first batch
    return method, antialias


def _to_size(parameters: Parameters, flow: Flow, work: Callable[[Any], Any], height: int, width: int) -> Draft:
    """Make the draft of a step that gives every image one size."""
    if flow.spec.datatype is not Datatype.UINT8 or len(flow.dims) != 3 or flow.dims[2] < 1:
        raise parameters.error(
            f"'{flow.spec.name}' is {flow.spec.datatype.wire_name} {list(flow.spec.shape)}, expected UINT8 images "
            "[-1, height, width, channels]"
        )
    channels = flow.dims[2]
    return Draft(PerRow(work), (Datatype.UINT8,), lambda _: ((height, width, channels),))


@dataclass(frozen=True, slots=True)
class _Decoder:
    """Decodes one image, with Pillow, within bounds. Raises ValueError."""

    pillow: Any
    mode: str
    pixels_max: int
    bytes_max: int
    converts: bool

    def __call__(self, element: Any) -> Array:
        octets = element.item() if isinstance(element, np.ndarray) else element
        octets = octets.encode() if isinstance(octets, str) else octets
        if len(octets) > self.bytes_max:
            raise ValueError(f"{len(octets)} bytes came, expected at most bytes_max = {self.bytes_max}")
        if flaw := image_files.flaw(octets):
            raise ValueError(flaw)
        try:
            with self.pillow.open(io.BytesIO(octets), formats=FORMATS) as image:  # reads the head alone
                problem = self._problem(image)
                if not problem:
                    array = np.asarray(self._converted(image))
                    return array if array.ndim == 3 else array[:, :, None]
        except self.pillow.UnidentifiedImageError:
            problem = f"{len(octets)} bytes came that are no image, expected JPEG or PNG"
        except (self.pillow.DecompressionBombError, self.pillow.DecompressionBombWarning):
            problem = f"an image of far more pixels came, expected at most pixels_max = {self.pixels_max}"
        except Exception as error:  # noqa: BLE001 - a library's reader raises many kinds on bytes that are damaged
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            problem = f"an image came that cannot be decoded ({reason}), expected a whole JPEG or PNG"
        raise ValueError(problem)

    def _converted(self, image: Any) -> Any:
        """Bring an image to the mode; of 16 bits the upper 8 are kept, as where a library reads 16-bit RGB."""
        if image.mode == self.mode:
            return image
        if image.mode in _WIDE_MODES:
            image = self.pillow.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image if image.mode == self.mode else image.convert(self.mode)

    def _problem(self, image: Any) -> str:
        """Say what is wrong with an image of which the head is known."""
        width, height = image.size
        if width * height > self.pixels_max:
            return f"an image of {width} x {height} came, expected at most pixels_max = {self.pixels_max}"
        if max(width, height) > pixels.LENGTH_MAX:
            return f"an image of {width} x {height} came, expected at most {pixels.LENGTH_MAX} on each side"
        if image.mode != self.mode and not self.converts:
            return f"an image of mode {image.mode} came, expected {self.mode}; send that, or set convert = true"
        return ""


def _crop(image: Array, *, height: int, width: int) -> Array:
    if image.shape[0] < height or image.shape[1] < width:
        raise ValueError(f"an image of {image.shape[1]} x {image.shape[0]} came, expected at least {width} x {height}")
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _letterbox(image: Array, *, fit: Callable[..., Array], height: int, width: int, fill: int) -> Array:
    pixels.check_sides(image)
    ratio = min(height / image.shape[0], width / image.shape[1])
    inner_height = min(height, max(1, round(image.shape[0] * ratio)))
    inner_width = min(width, max(1, round(image.shape[1] * ratio)))
    out = np.full((height, width, image.shape[2]), fill, np.uint8)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    inner = fit(np.ascontiguousarray(image), inner_height, inner_width)
    out[top : top + inner_height, left : left + inner_width] = inner
    return out
