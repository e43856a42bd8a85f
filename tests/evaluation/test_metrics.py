"""Metrics against scikit-learn and scipy, and their laws."""

import numpy as np
import pytest
import scipy.stats
import sklearn.calibration
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from v4d.evaluation import metrics
from v4d.evaluation.metrics import bootstrap_interval, mcnemar

unhurried = settings(deadline=None)


@st.composite
def scored_videos(draw, min_classes=2):
    """Random scores without ties (scikit-learn breaks ties the other way round) and labels."""
    classes = draw(st.integers(min_classes, 12))
    videos = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    probabilities = rng.dirichlet(np.full(classes, 0.3) + 0.05, videos)
    labels = rng.integers(0, classes, videos)
    return probabilities, labels


@unhurried
@given(scored_videos(min_classes=3), st.integers(1, 6))
def test_top_k_is_scikit_learns(scored, k):
    probabilities, labels = scored
    classes = probabilities.shape[1]
    ours = metrics.top_k(metrics.outcomes(probabilities, labels), k)
    if k >= classes:  # scikit-learn warns that this is no question
        assert ours == 100
    else:
        expected = sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=range(classes))
        assert ours == pytest.approx(100 * expected)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@unhurried
@given(scored_videos())
def test_mean_class_accuracy_is_balanced_accuracy(scored):
    results = metrics.outcomes(*scored)
    expected = sklearn.metrics.balanced_accuracy_score(results.labels, results.predicted)
    assert metrics.mean_class_accuracy(results) == pytest.approx(100 * expected)


@unhurried
@given(scored_videos())
def test_confusion_and_per_class_are_scikit_learns(scored):
    probabilities, labels = scored
    classes = probabilities.shape[1]
    results = metrics.outcomes(probabilities, labels)
    matrix = metrics.confusion_matrix(results, classes)
    assert (
        matrix == sklearn.metrics.confusion_matrix(results.labels, results.predicted, labels=range(classes))
    ).all()
    table = metrics.per_class(results, [f"class {i}" for i in range(classes)])
    precision, recall, _, support = sklearn.metrics.precision_recall_fscore_support(
        results.labels, results.predicted, labels=range(classes), zero_division=np.nan
    )
    np.testing.assert_allclose(table.top1, 100 * recall)
    np.testing.assert_allclose(table.precision, 100 * precision)
    assert (table.videos == support).all()
    assert table.videos.sum() == len(labels)


@unhurried
@given(scored_videos())
def test_calibration_error_is_scikit_learns_curve(scored):
    results = metrics.outcomes(*scored)
    error, table = metrics.calibration(results)
    filled = table[table.videos > 0]
    accuracy, confidence = sklearn.calibration.calibration_curve(
        results.correct, results.confidence, n_bins=metrics.BINS, strategy="uniform"
    )
    np.testing.assert_allclose(filled.accuracy, 100 * accuracy)
    np.testing.assert_allclose(filled.confidence, 100 * confidence)
    expected = 100 * np.average(np.abs(accuracy - confidence), weights=filled.videos)
    assert error == pytest.approx(expected)


@unhurried
@given(scored_videos(), st.randoms())
def test_the_order_of_videos_changes_nothing(scored, random):
    probabilities, labels = scored
    order = list(range(len(labels)))
    random.shuffle(order)
    one = metrics.outcomes(probabilities, labels)
    other = metrics.outcomes(probabilities[order], labels[order])
    assert metrics.top_k(one, 1) == pytest.approx(metrics.top_k(other, 1))
    assert (metrics.confusion_matrix(one, 12) == metrics.confusion_matrix(other, 12)).all()


def test_a_tie_goes_to_the_lower_class_in_rank_and_prediction_alike():
    results = metrics.outcomes(np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2]]), np.array([0, 1]))
    assert results.predicted.tolist() == [0, 0]
    assert results.ranks.tolist() == [0, 1]
    assert metrics.top_k(results, 1) == 50


def test_a_class_without_videos_has_no_accuracy_and_counts_nowhere():
    results = metrics.outcomes(np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]]), np.array([0, 1]))
    table = metrics.per_class(results, ["a", "b", "c"])
    assert table.top1[:2].tolist() == [100, 0]
    assert np.isnan(table.top1[2])
    assert table.taken_for.tolist() == ["", "a", ""]
    assert metrics.mean_class_accuracy(results) == 50


def test_confused_pairs_come_largest_first_with_their_share():
    matrix = np.array([[5, 3, 0], [1, 4, 0], [0, 2, 0]])
    pairs = metrics.confused_pairs(matrix, ["a", "b", "c"], count=10)
    assert pairs[["label", "predicted", "videos"]].values.tolist() == [
        ["a", "b", 3],
        ["c", "b", 2],
        ["b", "a", 1],
    ]
    assert pairs.share.tolist() == [37.5, 100.0, 20.0]


def test_the_bootstrap_interval_is_that_of_resampled_videos():
    correct = np.random.default_rng(3).random(400) < 0.7
    low, high = bootstrap_interval(correct)
    reference = scipy.stats.bootstrap(
        (correct.astype(float),), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert low == pytest.approx(100 * reference.low, abs=0.6)
    assert high == pytest.approx(100 * reference.high, abs=0.6)
    assert low < 100 * correct.mean() < high


@unhurried
@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 5), st.integers(0, 5))
def test_mcnemar_is_the_exact_binomial_test(only_first, only_second, both, neither):
    first = np.repeat([1, 0, 1, 0], [only_first, only_second, both, neither])
    second = np.repeat([0, 1, 1, 0], [only_first, only_second, both, neither])
    test = mcnemar(first, second)
    assert (test.only_first, test.only_second) == (only_first, only_second)
    differing = only_first + only_second
    expected = scipy.stats.binomtest(only_first, differing).pvalue if differing else 1.0
    assert test.p_value == pytest.approx(expected, rel=1e-8)


def test_mcnemar_refuses_outcomes_of_different_videos():
    with pytest.raises(ValueError, match="different videos"):
        mcnemar(np.ones(3), np.ones(4))
