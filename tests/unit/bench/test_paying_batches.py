import pytest

from bench.paying_batches import Speed, verdict

DENSE = {1: [Speed(100.0, 1.0)], 64: [Speed(900.0, 20.0)]}


@pytest.mark.parametrize(("rates", "status"), [((100.0, 97.5, 104.0), 0), ((100.0, 96.0, 104.0), 1)])
def test_the_model_for_which_batches_do_not_pay_keeps_its_rate_at_every_concurrency(rates, status):
    convolutional = {concurrency: [Speed(rate, 1.0)] for concurrency, rate in zip((2, 4, 8), rates, strict=True)}
    assert verdict(convolutional, DENSE) == status


@pytest.mark.parametrize("more", [Speed(90.0, 20.0), Speed(900.0, 1.0)])
def test_the_model_for_which_they_pay_gets_larger_ones_and_is_faster_with_them(more):
    convolutional = {2: [Speed(100.0, 1.0)]}
    assert verdict(convolutional, DENSE) == 0
    assert verdict(convolutional, DENSE | {64: [more]}) == 1


def test_a_round_is_compared_with_the_same_round():
    convolutional = {2: [Speed(100.0, 1.0), Speed(50.0, 1.0)], 4: [Speed(100.0, 1.0), Speed(50.0, 1.0)]}
    assert verdict(convolutional, DENSE) == 0
