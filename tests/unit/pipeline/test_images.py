import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import LoadError
from serving.pipeline import images, pixels
from serving.pipeline.flaws import RefusedRowsError
from tests.support.pipelines import before

PIL_Image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'penstock[image]'")
METHODS = {
    "nearest": PIL_Image.Resampling.NEAREST,
    "bilinear": PIL_Image.Resampling.BILINEAR,
    "bicubic": PIL_Image.Resampling.BICUBIC,
}
LEVELS = {"nearest": 0, "bilinear": 1, "bicubic": 1}
"""How far a resized photograph may be from Pillow's, in levels of 255: Pillow rounds between its two passes.

It cuts off there too, so where the cubic kernel overshoots black or white, at hard edges, more levels lie between."""


def photograph(height=61, width=83, channels=3):
    """Something smooth with an edge, as photographs are."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 90 * np.sin(x / (5 + c) + c) * np.cos(y / (7 - c)) for c in range(channels)]
    picture = np.stack(waves, axis=-1)
    picture[height // 3 : height // 2, width // 4 : width // 2] = (250, 5, 128)[:channels]
    return picture.astype(np.uint8)


def encoded(array, kind="PNG", mode=None, **options):
    file = io.BytesIO()
    image = PIL_Image.fromarray(array[:, :, 0] if array.shape[-1] == 1 else array)
    (image if mode is None else image.convert(mode)).save(file, kind, **options)
    return file.getvalue()


def rows_of(*octets):
    array = np.empty(len(octets), object)
    array[:] = octets
    return array


def decoded(octets, *steps, wanted=(30, 40, 3), dtype=np.uint8, **options):
    """Run images of bytes through decode_image and further steps, all under the name x."""
    chain = [{"step": "decode_image", "input": "x", **options}, *({"input": "x", **step} for step in steps)]
    given = {"x": rows_of(*octets)}
    return before_binary(chain, given, np.zeros((1, *wanted), dtype))


def before_binary(chain, given, wanted):
    from serving.config import PipelineConfig
    from tests.support.pipelines import pipeline, spec

    config = PipelineConfig(preprocess=tuple(chain))
    built = pipeline(config, [spec("x", wanted)])
    return built.preprocess([given["x"]], "test")[0]


RESIZE = {"step": "resize", "height": 30, "width": 40}


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_is_decoded_to_what_pillow_decodes(kind):
    octets = encoded(photograph(30, 40), kind)
    expected = np.asarray(PIL_Image.open(io.BytesIO(octets)))
    np.testing.assert_array_equal(decoded([octets], RESIZE)[0], expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(30, 40), (100, 90), (61, 40), (7, 200), (1, 1)])
def test_resizing_agrees_with_pillow(method, size):
    array = 64 + photograph() // 2  # so that no edge overshoots
    ours = pixels.resized(array, *size, method, antialias=True)
    theirs = np.asarray(PIL_Image.fromarray(array).resize(size[::-1], METHODS[method]))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= LEVELS[method]


def slowly_resized(array, height, width, method, *, antialias):
    """The twin: for every wanted pixel the weighted mean of all pixels, by the kernel's definition."""

    def kernel(x):
        x = abs(x)
        if method == "bilinear":
            return max(0.0, 1 - x)
        return (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0

    def matrix(length, wanted):
        rows = np.zeros((wanted, length))
        scale = length / wanted
        stretch = max(scale, 1.0) if antialias else 1.0
        for place in range(wanted):
            centre = (place + 0.5) * scale
            for pixel in range(length) if antialias else range(-4, length + 4):
                rows[place, min(max(pixel, 0), length - 1)] += kernel((pixel + 0.5 - centre) / stretch)
        return rows / rows.sum(axis=1, keepdims=True)

    rows, columns = matrix(array.shape[0], height), matrix(array.shape[1], width)
    exact = np.einsum("yh,xw,hwc->yxc", rows, columns, array.astype(float))
    return np.clip(exact, 0, 255)


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]))),
    st.integers(1, 14), st.integers(1, 14), st.sampled_from(["bilinear", "bicubic"]), st.booleans(),
)  # fmt: skip
def test_resizing_is_the_weighted_mean_of_its_definition(array, height, width, method, antialias):
    ours = pixels.resized(array, height, width, method, antialias=antialias)
    exact = slowly_resized(array, height, width, method, antialias=antialias)
    assert ours.shape == exact.shape
    assert np.abs(ours - exact).max() <= 0.502


def test_an_image_may_lie_in_memory_as_a_part_of_another():
    array = photograph()
    part = array[3:51:2, 70:10:-1]
    assert not part.flags.c_contiguous
    np.testing.assert_array_equal(
        pixels.resized(part, 20, 20, "bicubic", antialias=True),
        pixels.resized(part.copy(), 20, 20, "bicubic", antialias=True),
    )


def test_crop_is_the_middle_and_letterbox_keeps_proportions():
    array = photograph(60, 80)
    octets = encoded(array)
    cropped = decoded([octets], {"step": "crop", "height": 20, "width": 30}, wanted=(20, 30, 3))[0]
    np.testing.assert_array_equal(cropped, array[20:40, 25:55])
    boxed = decoded([octets], {"step": "letterbox", "height": 40, "width": 40, "fill": 7}, wanted=(40, 40, 3))[0]
    assert (boxed[:5] == 7).all()
    assert (boxed[35:] == 7).all()
    np.testing.assert_array_equal(boxed[5:35], pixels.resized(array, 30, 40, "bilinear", antialias=True))


def test_normalise_and_layout_are_numpys():
    array = photograph(30, 40)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    steps = ({"step": "normalise", "mean": mean, "std": std}, {"step": "layout", "to": "NCHW"})
    result = decoded([encoded(array)] * 3, RESIZE, *steps, wanted=(3, 30, 40), dtype=np.float32)
    expected = ((array.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(result, np.stack([expected] * 3), atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_layout_back_and_forth_changes_nothing(rows):
    array = np.random.default_rng(1).random((rows, 4, 6, 3), np.float32)
    there = before([{"step": "layout", "input": "x", "to": "NCHW"}], {"x": array}, np.zeros((1, 3, 4, 6), np.float32))
    np.testing.assert_array_equal(there, array.transpose(0, 3, 1, 2))
    back = before([{"step": "layout", "input": "x", "to": "NHWC"}], {"x": there.copy()}, array[:1] if rows else
                  np.zeros((1, 4, 6, 3), np.float32))  # fmt: skip
    np.testing.assert_array_equal(back, array)


def test_many_images_of_different_sizes_keep_their_rows():
    sizes = [(20 + k, 90 - k) for k in range(40)]
    arrays_given = [photograph(*size) + np.uint8(k) for k, size in enumerate(sizes)]
    result = decoded([encoded(array) for array in arrays_given], RESIZE)
    for array, got in zip(arrays_given, result, strict=True):
        np.testing.assert_array_equal(got, pixels.resized(array, 30, 40, "bilinear", antialias=True))


def bomb(width=16_384, height=16_383):
    """A PNG of a few bytes that says it is so large."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


GOOD = photograph(20, 20)
BAD = {
    "nothing": (b"", "0 bytes came that are no image, expected JPEG or PNG"),
    "text": (b"hello", "no image"),
    "a GIF": (encoded(GOOD, "GIF"), "no image"),
    "a JPEG that ends too soon": (encoded(photograph(90, 90), "JPEG")[:-900], "cannot be decoded"),
    "a PNG that ends too soon": (encoded(photograph(90, 90))[:-900], "cannot be decoded"),
    "a decompression bomb": (bomb(), "expected at most pixels_max = 10000"),
    "too many pixels": (encoded(photograph(200, 51)), "51 x 200 came, expected at most pixels_max = 10000"),
    "a picture with transparency": (
        encoded(GOOD, mode="RGBA"),
        "mode RGBA came, expected RGB; send",
    ),
    "a grey picture": (encoded(GOOD, "JPEG", mode="L"), "mode L came"),
    "an inked picture": (encoded(GOOD, "JPEG", mode="CMYK"), "mode CMYK came"),
    "a JPEG of many segments": (
        encoded(GOOD, "JPEG").replace(b"\xff\xd8", b"\xff\xd8" + b"\xff\xfe\x00\x02" * 10_001, 1),
        "of more than 10000 segments came",
    ),
    "too long": (encoded(GOOD) + bytes(50_000), "bytes came, expected at most bytes_max = 50000"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_image_that_cannot_be_taken_refuses_its_row_alone(name):
    octets, message = BAD[name]
    good = encoded(GOOD)
    with pytest.raises(RefusedRowsError) as caught:
        decoded([good, octets, good], RESIZE, pixels_max=10_000, bytes_max=50_000)
    assert list(caught.value.reasons) == [1]
    reason = caught.value.reasons[1]
    assert reason.startswith("decode_image of 'x': ")
    assert message in reason


def test_pictures_of_other_modes_are_converted_where_that_is_wanted():
    for mode, kind in (("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "JPEG")):
        octets = encoded(GOOD, kind, mode=mode)
        expected = np.asarray(PIL_Image.open(io.BytesIO(octets)).convert("RGB"))
        assert (
            decoded([octets], {**RESIZE, "height": 20, "width": 20}, wanted=(20, 20, 3), convert=True) == expected
        ).all()


def test_a_large_image_is_the_clients_business_and_no_warning_of_ours():
    large = bomb(16_384, 6_000)  # more than Pillow warns of, less than it refuses itself
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        with pytest.raises(RefusedRowsError):
            decoded([large], RESIZE, pixels_max=9_999)
    assert not found


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_grey_levels_of_16_bits_are_converted_to_their_upper_8(mode, channels):
    levels = np.linspace(0, 65_535, 400).astype(np.uint16).reshape(20, 20)
    file = io.BytesIO()
    PIL_Image.fromarray(levels).save(file, "PNG")
    size = {**RESIZE, "height": 20, "width": 20}
    found = decoded([file.getvalue()], size, wanted=(20, 20, channels), mode=mode, convert=True)
    assert (found[0] == (levels // 256)[:, :, None]).all()


def test_a_picture_smaller_than_the_crop_is_refused():
    with pytest.raises(RefusedRowsError) as caught:
        decoded([encoded(GOOD)], {"step": "crop", "height": 30, "width": 40})
    assert caught.value.reasons[0] == "crop of 'x': an image of 20 x 20 came, expected at least 40 x 30"


WRONG = [
    ([], "rows of different shapes"),
    ([{"step": "normalise"}], "resize images first"),
    ([{"step": "layout", "to": "NCHW"}], "expected images of one size"),
    ([{"step": "scale"}], "rows of different shapes"),
    ([RESIZE, {"step": "layout", "to": "CHWN"}], "to = 'CHWN'"),
    ([{"step": "resize", "height": 30}], "width is missing"),
    ([{**RESIZE, "method": "lanczos"}], "method = 'lanczos'"),
    ([{**RESIZE, "height": 0}], "expected a whole number from 1"),
    ([RESIZE, {"step": "normalise", "std": [1.0, 0.0, 1.0]}], "std holds a 0"),
    ([RESIZE, {"step": "normalise", "mean": [1.0, 0.0]}], "mean has 2 numbers, expected 3"),
]


@pytest.mark.parametrize(("steps", "message"), WRONG)
def test_steps_that_do_not_go_together_are_refused_when_a_model_is_loaded(steps, message):
    with pytest.raises(LoadError, match=message):
        decoded([], *steps)


def test_the_bounds_of_an_image_are_below_what_pillow_warns_of():
    assert images.PIXELS_MAX < PIL_Image.MAX_IMAGE_PIXELS
