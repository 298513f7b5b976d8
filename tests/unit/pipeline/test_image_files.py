import io
import struct
import zlib

import numpy as np
import pytest

from serving.pipeline import image_files

PIL_Image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'penstock[image]'")
RANDOM = np.random.default_rng(3)


def encoded(kind="JPEG", mode="RGB", **options):
    picture = PIL_Image.fromarray(RANDOM.integers(0, 256, (48, 64, 3)).astype(np.uint8))
    file = io.BytesIO()
    picture.convert(mode).save(file, kind, **options)
    return file.getvalue()


def chunk(kind, content=b""):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def scans_of(jpeg):
    return [place for place in range(len(jpeg) - 1) if jpeg[place : place + 2] == b"\xff\xda"]


def with_scans(count):
    """A progressive JPEG in which one scan is there so often."""
    jpeg = encoded(progressive=True)
    *_, one, last = scans_of(jpeg)
    return jpeg[:last] + jpeg[one:last] * count + jpeg[last:]


def with_segments(count, segment=b"\xff\xfe\x00\x02"):
    jpeg = encoded()
    return jpeg[:2] + segment * count + jpeg[2:]


WHOLE = [
    encoded(),
    encoded(mode="L"),
    encoded(mode="CMYK"),
    encoded(progressive=True),
    encoded(comment=b"\xff\xda" * 5_000),  # what lies in a segment is no marker
    encoded() + b"\xff\xda\x00\x02" * 200,  # nor is what lies behind the end
    encoded("PNG"),
    encoded("PNG", mode="P"),
]


@pytest.mark.parametrize("octets", WHOLE)
def test_files_as_programs_write_them_have_no_flaw(octets):
    assert image_files.flaw(octets) == ""


@pytest.mark.parametrize("octets", WHOLE)
def test_a_file_that_ends_anywhere_is_left_to_the_decoder(octets):
    for length in (0, 1, 2, 3, 5, 9, 20, 60, 200, len(octets) // 2, len(octets) - 1):
        assert image_files.flaw(octets[:length]) == ""


def test_other_bytes_are_left_to_the_decoder():
    assert image_files.flaw(RANDOM.bytes(5_000)) == ""


def test_a_jpeg_that_repeats_a_scan_is_refused():
    assert image_files.flaw(with_scans(80)) == ""
    assert image_files.flaw(with_scans(100)) == "a JPEG of more than 100 scans came, expected fewer; save it anew"


def test_an_end_within_a_segment_hides_no_scans():
    hidden = with_scans(100)
    first = scans_of(hidden)[0]
    hidden = hidden[:first] + b"\xff\xfe\x00\x04\xff\xd9" + hidden[first:]
    assert "more than 100 scans" in image_files.flaw(hidden)


@pytest.mark.parametrize("segment", [b"\xff\xfe\x00\x02", b"\xff" * 4, b"\x00" * 4, b"\xff\xd8\xff\xd8"])
def test_a_jpeg_of_many_segments_or_of_much_filling_is_refused(segment):
    assert "more than 10000 segments" in image_files.flaw(with_segments(10_000, segment))
    assert image_files.flaw(with_segments(1_000, segment)) == ""


@pytest.mark.parametrize("place", [33, -12])
def test_a_png_of_many_chunks_is_refused(place):
    png = encoded("PNG")
    for count, words in ((1_000, ""), (10_000, "a PNG of more than 10000 chunks came, expected fewer; save it anew")):
        assert image_files.flaw(png[:place] + chunk(b"abCd") * count + png[place:]) == words
