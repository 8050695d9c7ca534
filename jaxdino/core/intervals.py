"""The interval of a share, which every count of right answers has."""


def wilson(hits: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share of n independent cases. Source: Wilson 1927, in scipy.stats.binomtest."""
    from scipy.stats import binomtest

    found = binomtest(int(hits), int(n)).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)
