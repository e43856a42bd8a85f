"""Numbers of a test: accuracy, confusion, calibration, and how sure they are.

Legend: V videos, K classes. Shares are percentages, 0 to 100.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

BINS = 15
"""Confidence bins of the calibration error (Guo et al., ICML 2017)."""
RESAMPLES = 10_000
LEVEL = 0.95
"""Of the bootstrap: how often its interval should hold the true value."""


@dataclass(frozen=True)
class Outcomes:
    """What the metrics need of every video; arrays `[V]`.

    A million videos take 20 MB, so a test set never has to have its probabilities in memory.
    """

    labels: np.ndarray
    """Class index."""
    predicted: np.ndarray
    """Class index of the best score, the lower one in a tie."""
    ranks: np.ndarray
    """How many classes come before the label: 0 where it is right."""
    confidence: np.ndarray
    """Probability of `predicted`, 0 to 1."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> np.ndarray:
        """Whether the best class is the label, bool `[V]`."""
        return self.predicted == self.labels


def outcomes(probabilities: np.ndarray, labels: np.ndarray) -> Outcomes:
    """Reduce scores `[V, K]`, all finite, to what is needed of them; `labels` are class indices `[V]`."""
    probabilities = np.asarray(probabilities)
    labels = np.asarray(labels, dtype=np.int64)
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    index = np.arange(probabilities.shape[1])
    before = (probabilities > own) | ((probabilities == own) & (index < labels[:, None]))
    return Outcomes(labels, probabilities.argmax(1), before.sum(1), probabilities.max(1, initial=0.0))


def top_k(results: Outcomes, k: int) -> float:
    """Share of videos whose label is among the `k` best classes; NaN for no videos."""
    return percent(results.ranks < k)


def mean_class_accuracy(results: Outcomes) -> float:
    """Mean over classes of their top-1; classes without videos have none and do not count."""
    videos = np.bincount(results.labels)
    correct = np.bincount(results.labels, weights=results.correct, minlength=len(videos))
    return percent(correct[videos > 0] / videos[videos > 0])


def confusion_matrix(results: Outcomes, class_count: int) -> np.ndarray:
    """Videos by label (row) and prediction (column), `[K, K]`."""
    pairs = results.labels * class_count + results.predicted
    return np.bincount(pairs, minlength=class_count**2).reshape(class_count, class_count)


def per_class(results: Outcomes, classes: list[str]) -> pd.DataFrame:
    """A row a class, in the order of their indices.

    `top1` is the class's recall, `precision` the share of right ones among what was taken for it, and
    `taken_for` the class that it is mistaken for most often. Shares of nothing are NaN.
    """
    matrix = confusion_matrix(results, len(classes))
    videos, taken, correct = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    in_five = np.bincount(results.labels, weights=results.ranks < 5, minlength=len(classes))
    mistakes = matrix - np.diag(correct)
    worst = mistakes.argmax(1)
    taken_for = [classes[other] if row[other] else "" for row, other in zip(mistakes, worst, strict=True)]
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(
            {
                "class_index": np.arange(len(classes)),
                "label": classes,
                "videos": videos,
                "correct": correct,
                "top1": 100 * correct / videos,
                "top5": 100 * in_five / videos,
                "precision": 100 * correct / taken,
                "taken_for": taken_for,
                "taken_for_videos": mistakes.max(1),
            }
        )


def confused_pairs(matrix: np.ndarray, classes: list[str], count: int = 20) -> pd.DataFrame:
    """The pairs (label, prediction) with the most videos, mistakes only; ties in the order of classes."""
    mistakes = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, matrix.shape)
    label, predicted = ([classes[i] for i in axis] for axis in (rows, columns))
    videos = mistakes[rows, columns]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 100 * videos / matrix.sum(1)[rows]  # of the label's videos
    table = pd.DataFrame({"label": label, "predicted": predicted, "videos": videos, "share": share})
    return table[videos > 0]


def calibration(results: Outcomes) -> tuple[float, pd.DataFrame]:
    """Expected calibration error, and the reliability table behind it.

    Confidence is cut into `BINS` equal intervals; the error is the mean over videos of
    |accuracy - confidence| of their bin. A bin without videos has NaN.
    """
    edges = np.linspace(0, 1, BINS + 1)
    place = np.searchsorted(edges[1:-1], results.confidence)
    videos = np.bincount(place, minlength=BINS)
    with np.errstate(invalid="ignore"):
        confidence = 100 * np.bincount(place, weights=results.confidence, minlength=BINS) / videos
        accuracy = 100 * np.bincount(place, weights=results.correct, minlength=BINS) / videos
    columns = {"low": 100 * edges[:-1], "high": 100 * edges[1:], "videos": videos}
    table = pd.DataFrame(columns | {"confidence": confidence, "accuracy": accuracy})
    filled = table[table.videos > 0]
    error = np.average((filled.accuracy - filled.confidence).abs(), weights=filled.videos)
    return float(error), table


def percent(values: np.ndarray) -> float:
    """The mean of shares or truth values `[V]`, in percent; NaN for none."""
    return float(100 * np.mean(values)) if len(values) else float("nan")


def bootstrap_interval(correct: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap of top-1, in percent; of `LEVEL`.

    `n` draws with replacement from right-or-wrong outcomes hold a binomially distributed number of
    right ones, so that number is drawn and not the videos: the same distribution, in no time.
    """
    count = len(correct)
    if count == 0:
        return float("nan"), float("nan")
    hits = np.random.default_rng(seed).binomial(count, np.mean(correct), RESAMPLES)
    low, high = np.quantile(100 * hits / count, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class McNemar:
    """Two models on the same videos: where just one of them is right, and the two-sided p-value."""

    only_first: int
    """Videos that just the first model gets right."""
    only_second: int
    """Videos that just the second model gets right."""
    p_value: float
    """Of a split at least as uneven, where both are equally good; 0 to 1."""


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
