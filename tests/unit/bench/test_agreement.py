"""Whether two load generators are said to agree when they do, and only then."""

import re
import shutil

import pytest

from bench import agreement
from bench.load import penstock, write_forest

SAME = [100.0, 101.0, 99.0, 100.5, 99.5]


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        (SAME, "no difference shown"),
        ([1.01 * value for value in SAME], "within noise"),
        ([1.5 * value for value in SAME], "they differ"),
        ([value / 1.5 for value in SAME], "they differ"),
    ],
)
def test_tools_agree_when_the_median_of_either_could_be_a_round_of_the_other(capsys, theirs, verdict):
    agreement._print("p50 us", SAME, theirs, "h2load")
    assert capsys.readouterr().out.rstrip().endswith(verdict)


def test_a_round_of_ours_that_is_like_theirs_does_not_make_theirs_like_ours():
    assert agreement._is_noise([*SAME, 150.0], [150.0, 100.0])
    assert not agreement._is_noise([*SAME, 150.0], [150.0] * 6)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load, of nghttp2, is not here")
def test_the_bench_and_h2load_take_turns_on_one_server(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(agreement, "DURATION_S", 1.0)
    monkeypatch.setattr(agreement, "WARM_UP_S", 0.2)
    write_forest(tmp_path)
    with penstock(tmp_path) as target:
        pairing = agreement._with_h2load(target)[0]
        agreement.compare(target, pairing, 2, "h2load")
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("forest, closed loop of 1 x 1, 2 rounds")
    names = [re.sub(r"  bench .*", "", line).strip() for line in lines]
    assert names == ["requests/s", "p50 us", "p90 us", "p99 us", "server us", "batch rows"]
    medians = [[float(number.replace(",", "")) for number in re.findall(r" ([\d,]+\.\d) \[", line)] for line in lines]
    assert all(0.2 < ours / theirs < 5 for ours, theirs in medians)
