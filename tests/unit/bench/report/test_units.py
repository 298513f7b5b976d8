import math

import pytest

from bench.report import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 us"), (0.5, "0.50 us"), (8.123, "8.12 us"), (81.23, "81.2 us"), (812.3, "812 us"), (999.4, "999 us"),
        (999.6, "1.00 ms"), (1234.0, "1.23 ms"), (250_000.0, "250 ms"), (2_500_000.0, "2.50 s"), (None, "-"),
        (math.nan, "-"), (math.inf, "-"),
    ],
)  # fmt: skip
def test_times_have_three_digits_and_a_unit(value, text):
    assert units.time_us(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (8.8, "8.80"), (98.7, "98.7"), (12345.6, "12,346"), (None, "-"), (math.nan, "-")]
)
def test_rates_are_never_cut_left_of_the_point(value, text):
    assert units.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.0 %"), (0.991, "99.1 %"), (0.00012, "0.012 %"), (1.0, "100.0 %"), (math.nan, "-")]
)
def test_shares_are_percents(value, text):
    assert units.percent(value) == text


@pytest.mark.parametrize(("ratio", "text"), [(1.08, "+8.0 %"), (0.93, "-7.0 %"), (1.0, "0.0 %"), (math.nan, "-")])
def test_ratios_are_changes(ratio, text):
    assert units.change(ratio) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (500, "500 us"), (2000, "2 ms"), (2500, "2.5 ms"), (1e6, "1 s")])
def test_ticks_are_short(value, text):
    assert units.tick_us(value) == text


def test_a_name_from_elsewhere_is_one_line_of_text():
    assert units.plain("a\nb\x1b\udcff") == "a\ufffdb\ufffd\ufffd"
    assert units.plain("x" * 100, 10) == "xxxxxxx..."
    assert units.plain("模型 é") == "模型 é"
