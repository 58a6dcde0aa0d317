"""What several seeds say together."""

import pytest

from faceeraser.measurement.seeds import mean_and_spread


def test_means_and_the_samples_own_deviation() -> None:
    rows = [{"psnr": 30.0, "ms": 4, "name": "a"}, {"psnr": 31.0, "ms": 4, "name": "b"}, {"psnr": 35.0, "ms": 4, "name": "c"}]
    means, spread = mean_and_spread(rows, ("psnr", "ms"))
    assert means == {"psnr": 32.0, "ms": 4.0}
    assert spread == {"psnr": pytest.approx((7.0) ** 0.5, abs=1e-4), "ms": 0.0}, "over n - 1 rows: sqrt((4 + 1 + 9) / 2)"


def test_one_seed_is_no_spread() -> None:
    assert mean_and_spread([{"psnr": 30.12345}], ["psnr"]) == ({"psnr": 30.1234}, {"psnr": 0.0})
