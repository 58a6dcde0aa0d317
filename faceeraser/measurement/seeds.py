"""What runs of several seeds say together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def mean_and_spread(rows: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> tuple[dict[str, float], dict[str, float]]:
    """({key: mean}, {key: standard deviation}) of what rows, one a seed, have under each key, rounded to 4 digits.

    The deviation is the sample's (over n - 1 rows); that of one row is 0.
    """
    values = {key: np.array([row[key] for row in rows], np.float64) for key in keys}
    return (
        {key: round(float(each.mean()), 4) for key, each in values.items()},
        {key: round(float(each.std(ddof=min(1, len(each) - 1))), 4) for key, each in values.items()},
    )
