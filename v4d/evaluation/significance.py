"""How sure a test's numbers are: an interval for one model, a paired test for two."""

import math
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


def bootstrap_interval(
    correct: np.ndarray, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap of top-1, in percent.

    `n` draws with replacement from right-or-wrong outcomes hold a binomially distributed number of
    right ones, so that number is drawn and not the videos: the same distribution, in no time.
    """
    count = len(correct)
    if count == 0:
        return float("nan"), float("nan")
    hits = np.random.default_rng(seed).binomial(count, np.mean(correct), resamples)
    low, high = np.quantile(100 * hits / count, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """Two models on the same videos: where just one of them is right, and the two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test of right-or-wrong outcomes `[V]` of two models, paired by video.

    Under the null hypothesis, of the videos on which the models differ each is as likely to be the one's
    as the other's: a fair coin. The p-value is the probability of a split at least as uneven.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"outcomes of different videos: {first.shape} and {second.shape}")
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    return McNemar(only_first, only_second, _fair_coin_p(only_first, only_second))


def _fair_coin_p(heads: int, tails: int) -> float:
    """Probability of a split at least as uneven in `heads + tails` tosses; logarithms, for large counts."""
    tosses, few = heads + tails, min(heads, tails)
    logs = [
        math.lgamma(tosses + 1) - math.lgamma(k + 1) - math.lgamma(tosses - k + 1) for k in range(few + 1)
    ]
    tail = math.fsum(math.exp(log - tosses * math.log(2)) for log in logs)
    return min(1.0, 2 * tail)
