import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lift.errors import UsageError
from lift.evaluation.significance import Agreement, agreement, bootstrap, holm, paired_difference

ONE_DOCUMENT = "d"


def correlated(random: np.random.Generator, documents: int, each: int) -> tuple[list[float], list[str]]:
    """Scores around 0 of which the half of the variance is the document's, and the document of each."""
    shared = np.repeat(random.normal(size=documents), each)
    return list(shared + random.normal(size=documents * each)), [f"d{i // each}" for i in range(documents * each)]


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(11)
    covered = naive = 0
    for _ in range(300):
        values, clusters = correlated(random, 40, 6)
        found = bootstrap(values, clusters, resamples=400)
        covered += found.low <= 0 <= found.high
        alone = bootstrap(values, [ONE_DOCUMENT] * len(values), resamples=400)
        naive += alone.low <= 0 <= alone.high
    assert 0.91 <= covered / 300 <= 0.98
    assert naive / 300 < 0.8  # what drawing questions alone would have claimed to be 0.95


def test_drawing_documents_gives_a_wider_interval_on_correlated_questions() -> None:
    values, clusters = correlated(np.random.default_rng(3), 20, 10)
    whole, alone = bootstrap(values, clusters), bootstrap(values, [ONE_DOCUMENT] * len(values))
    assert whole.high - whole.low > 1.8 * (alone.high - alone.low)
    assert (whole.mean, whole.n, whole.documents, alone.documents) == (alone.mean, 200, 20, 1)


def test_fewer_than_five_documents_are_not_drawn() -> None:
    values, clusters = correlated(np.random.default_rng(3), 4, 10)
    found, alone = bootstrap(values, clusters), bootstrap(values, [ONE_DOCUMENT] * len(values))
    assert (found.low, found.high) == (alone.low, alone.high)
    assert found.documents == 4


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(5).beta(2, 1, size=80)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    ours = bootstrap(values.tolist(), [ONE_DOCUMENT] * 80, resamples=20_000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.003)
    narrower = bootstrap(values.tolist(), [ONE_DOCUMENT] * 80, level=0.8)
    assert ours.low < narrower.low < ours.mean < narrower.high < ours.high


def test_documents_weigh_as_many_questions_as_they_have() -> None:
    found = bootstrap([1.0] * 6 + [0.0] * 4, [*["long"] * 6, "a", "b", "c", "e"])
    assert found.mean == pytest.approx(0.6)
    assert (found.low, found.high) == (0.0, pytest.approx(18 / 20))  # the long one drawn never, and 3 times of 5


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("documents", [1, 7, 30])
def test_equal_values_have_no_width_and_no_difference(value: float, documents: int) -> None:
    values, clusters = [value] * 30, [str(i % documents) for i in range(30)]
    found = bootstrap(values, clusters)
    assert found.low == found.mean == found.high == value
    same = paired_difference(values, values, clusters)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert (same.n, same.better, same.worse, same.equal) == (30, 0, 0, 30)


def test_p_values_are_uniform_where_there_is_no_difference() -> None:
    random = np.random.default_rng(23)
    p_values = []
    for _ in range(300):
        a, clusters = correlated(random, 20, 4)
        b, _ = correlated(random, 20, 4)
        p_values.append(paired_difference(a, b, clusters, resamples=10, flips=300).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.08


def test_a_true_difference_is_found() -> None:
    random = np.random.default_rng(7)
    b, clusters = correlated(random, 15, 8)
    a = list(np.array(b) + random.normal(0.8, 1.0, size=len(b)))
    found = paired_difference(a, b, clusters)
    assert 0 < found.low < found.mean < found.high
    assert found.p_value < 0.01
    assert found.better > found.worse
    assert found.better + found.worse + found.equal == found.n == 120


def test_the_p_value_is_that_of_scipy() -> None:
    random = np.random.default_rng(2)
    few, many = random.normal(0.4, 1, size=9), random.normal(0.2, 1, size=60)

    def theirs(values: np.ndarray) -> float:
        test = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=20_000, rng=1)
        return float(test.pvalue)

    exact = paired_difference(few.tolist(), [0.0] * 9, [ONE_DOCUMENT] * 9)
    assert exact.p_value == pytest.approx(theirs(few), abs=1e-12)
    drawn = paired_difference(many.tolist(), [0.0] * 60, [ONE_DOCUMENT] * 60)
    assert drawn.p_value == pytest.approx(theirs(many), abs=0.015)


def test_right_and_wrong_answers_give_the_sign_test() -> None:
    a, b = [1.0] * 10 + [0.0] * 2 + [1.0] * 50, [0.0] * 10 + [1.0] * 2 + [1.0] * 50
    found = paired_difference(a, b, [ONE_DOCUMENT] * 62)
    assert found.p_value == pytest.approx(158 / 4096)  # 2 * (1 + 12 + 66) patterns of 12 signs
    assert found.p_value == pytest.approx(stats.binomtest(2, 12).pvalue)
    assert (found.better, found.worse, found.equal) == (10, 2, 50)


def test_ten_documents_are_flipped_whole_and_nine_are_not() -> None:
    def p_value(documents: int) -> float:
        n = 4 * documents
        return paired_difference([1.0] * n, [0.0] * n, [str(i // 4) for i in range(n)]).p_value

    assert p_value(10) == 2 / 2**10
    assert p_value(9) == 1 / 10_001


def test_results_repeat_with_the_seed() -> None:
    a, clusters = correlated(np.random.default_rng(1), 12, 3)
    b, _ = correlated(np.random.default_rng(2), 12, 3)
    assert paired_difference(a, b, clusters, seed=4) == paired_difference(a, b, clusters, seed=4)
    assert paired_difference(a, b, clusters, seed=4).low != paired_difference(a, b, clusters, seed=5).low


def test_three_hundred_questions_take_little_time() -> None:
    values = np.random.default_rng(1).random(300).tolist()
    took = []
    for _ in range(3):
        start = time.process_time()
        bootstrap(values, [ONE_DOCUMENT] * 300)
        took.append(time.process_time() - start)
    assert min(took) < 0.2


scores = st.lists(
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from([f"d{i}" for i in range(12)])), min_size=1, max_size=40
)


@given(scores)
@settings(max_examples=25, deadline=None)
def test_bounds_hold_for_any_scores(rows: list[tuple[float, float, str]]) -> None:
    a, b, clusters = (list(column) for column in zip(*rows, strict=True))
    found = bootstrap(a, clusters, resamples=200)
    assert min(a) - 1e-9 <= found.low <= found.mean + 1e-9
    assert found.mean - 1e-9 <= found.high <= max(a) + 1e-9
    forth, back = (paired_difference(x, y, clusters, resamples=50, flips=100) for x, y in ((a, b), (b, a)))
    assert 0 < forth.p_value <= 1
    assert (forth.p_value, forth.better, forth.equal) == (back.p_value, back.worse, back.equal)
    assert forth.mean == pytest.approx(-back.mean, abs=1e-9)


def test_holm_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.03}) == {"a": 0.03}
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_never_lowers_and_keeps_the_order(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert all(p_values[name] <= adjusted[name] <= 1 for name in p_values)
    ranked = sorted(p_values, key=lambda name: (p_values[name], adjusted[name]))
    assert [adjusted[name] for name in ranked] == sorted(adjusted.values())


def test_agreement_by_hand() -> None:
    yes, no = True, False
    labels, verdicts = [yes] * 25 + [no] * 25, [yes] * 20 + [no] * 5 + [yes] * 10 + [no] * 15
    found = agreement(labels, verdicts)  # 35 of 50 agree, 25 of 50 by chance: (0.7 - 0.5) / (1 - 0.5)
    assert (found.n, found.share, found.kappa) == (50, 0.7, pytest.approx(0.4))
    assert agreement("aabbc", "aabbc") == Agreement(5, 1.0, 1.0)
    assert agreement("ab", "ba") == Agreement(2, 0.0, -1.0)
    three = agreement("aaabbc", "aabbcc")  # 4 of 6; by chance (3*2 + 2*2 + 1*2) / 36
    assert three.kappa == pytest.approx((4 / 6 - 12 / 36) / (1 - 12 / 36))


def test_one_class_throughout_says_nothing_about_agreement() -> None:
    assert agreement("aaa", "aaa") == Agreement(3, 1.0, 0.0)


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(UsageError, match="got 0 and 0"):
        bootstrap([], [])
    with pytest.raises(UsageError, match="got 2 and 1"):
        bootstrap([1.0, 0.0], ["d"])
    with pytest.raises(UsageError, match="got 1 and 2"):
        paired_difference([1.0], [1.0, 0.0], ["d"])
    with pytest.raises(UsageError, match="finite scores, got nan"):
        bootstrap([1.0, float("nan")], ["d", "d"])
    with pytest.raises(UsageError, match="got 0 and 0"):
        agreement([], [])
    with pytest.raises(UsageError, match="got 1 and 2"):
        agreement(["a"], ["a", "b"])
