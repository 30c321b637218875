"""How sure a mean or a difference is: bootstrap intervals, sign-flip tests, Holm's correction, and agreement. Pure.

The scores of questions on one text are not independent: one memory that came out badly answers all of them badly. So
what is drawn anew, or flipped, is a whole document with its questions, wherever there are documents enough.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lift.errors import UsageError

FEWEST_DOCUMENTS_TO_RESAMPLE = 5
FEWEST_DOCUMENTS_TO_FLIP = 10
MOST_UNITS_TO_ENUMERATE = 12
_CELLS_AT_ONCE = 2_000_000

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over `n` questions on `documents` documents, and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float
    n: int
    documents: int


@dataclass(frozen=True)
class PairedDifference:
    """The mean of a - b over `n` questions, its interval, and the p-value of there being no difference.

    `better`, `worse`, `equal`: on how many questions a is above, below, and at b.
    """

    mean: float
    low: float
    high: float
    p_value: float
    n: int
    better: int
    worse: int
    equal: int


@dataclass(frozen=True)
class Agreement:
    """How far two sets of `n` labels agree: the `share` that is the same, and Cohen's `kappa`."""

    n: int
    share: float
    kappa: float


def bootstrap(
    values: Sequence[float], clusters: Sequence[str], resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """The mean of `values`, one a question, and its percentile bootstrap interval (Efron 1979).

    `clusters` names the document of each question. Documents are drawn with all their questions where there are at
    least 5, since questions on one text are not independent and drawing them alone would make the interval too narrow.
    Fewer documents can be drawn in too few ways: questions are drawn, and the interval speaks of these documents only.
    With 5 to some 20 documents it still covers less than `level` says, as percentile intervals of small samples do.
    Raises UsageError for no values, values that are not finite, or lengths that differ.
    """
    scores = _checked(values, clusters)
    # moved to begin at 0, so that equal values give an interval of exactly no width
    sums, counts = _units(scores - scores[0], clusters, FEWEST_DOCUMENTS_TO_RESAMPLE)
    random = np.random.default_rng(seed)
    means = []
    for rows in _blocks(resamples, len(sums)):
        drawn = random.integers(len(sums), size=(rows, len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2]) + scores[0]
    mean = (scores - scores[0]).mean() + scores[0]
    return Interval(float(mean), float(low), float(high), len(scores), len(set(clusters)))


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str],
    resamples: int = 2000,
    flips: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedDifference:
    """How far `a` is above `b` on the same questions: interval as `bootstrap` has it, p-value by flipping signs.

    Where neither is better, each difference might as well have had the other sign; the p-value (two-sided) is the share
    of sign patterns whose mean is at least as far from 0: all of them up to 12 units, else `flips` drawn ones and the
    observed. Documents are flipped whole where there are at least 10. With fewer, the least p-value that can be had is
    2 / 2**documents (0.06 for 5), so that no difference could ever be shown; questions are flipped then, and the
    p-value speaks of these documents, not of documents in general. Raises UsageError as `bootstrap` does.
    """
    if len(a) != len(b):
        raise UsageError(f"expected two scores for each question, got {len(a)} and {len(b)}; pair them by question")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    interval = bootstrap(differences.tolist(), clusters, resamples, seed, level)
    sums, _ = _units(differences, clusters, FEWEST_DOCUMENTS_TO_FLIP)
    return PairedDifference(
        interval.mean,
        interval.low,
        interval.high,
        _sign_flip_p_value(sums, flips, seed),
        interval.n,
        int((differences > 0).sum()),
        int((differences < 0).sum()),
        int((differences == 0).sum()),
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values adjusted for being several, by Holm's step-down method (1979), in the order given.

    Those that stay below a level are differences of which, with that level's probability at most, any is by chance.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def agreement(labels: Sequence[Hashable], verdicts: Sequence[Hashable]) -> Agreement:
    """How far `verdicts` agree with `labels`, item for item (Cohen 1960).

    Kappa is the agreement beyond chance, 1 at most; it is 0 where both name one and the same class throughout, since
    chance would agree as well. Raises UsageError for none, or for lengths that differ.
    """
    if not labels or len(labels) != len(verdicts):
        raise UsageError(f"expected a verdict for each label, got {len(labels)} and {len(verdicts)}; pair them by item")
    n = len(labels)
    share = sum(label == verdict for label, verdict in zip(labels, verdicts, strict=True)) / n
    first, second = Counter(labels), Counter(verdicts)
    by_chance = sum(first[each] * second[each] for each in first) / n**2
    return Agreement(n, share, (share - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0)


def _checked(values: Sequence[float], clusters: Sequence[str]) -> _Floats:
    if not values or len(values) != len(clusters):
        raise UsageError(
            f"expected scores and the document of each, got {len(values)} and {len(clusters)}; give one for each score"
        )
    scores = np.asarray(values, dtype=np.float64)
    if not np.isfinite(scores).all():
        worst = scores[~np.isfinite(scores)][0]
        raise UsageError(f"expected finite scores, got {worst}; leave out the questions that have no score")
    return scores


def _units(values: _Floats, clusters: Sequence[str], fewest: int) -> tuple[_Floats, _Floats]:
    """Sums and counts of what is drawn or flipped as one: documents if at least `fewest`, else single questions."""
    index = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    if len(index) < fewest:
        return values, np.ones(len(values))
    of = np.array([index[name] for name in clusters])
    sums, counts = np.bincount(of, weights=values), np.bincount(of)
    return np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)


def _sign_flip_p_value(sums: _Floats, flips: int, seed: int) -> float:
    moved = sums[sums != 0]  # the sign of nothing changes nothing
    least = abs(moved.sum()) * (1 - 1e-9)
    if len(moved) <= MOST_UNITS_TO_ENUMERATE:
        patterns = np.array(list(itertools.product((1.0, -1.0), repeat=len(moved))))
        return float((np.abs(patterns @ moved) >= least).mean())
    random = np.random.default_rng(seed)
    as_far = 0
    for rows in _blocks(flips, len(moved)):
        signs = 1.0 - 2.0 * random.integers(2, size=(rows, len(moved)), dtype=np.int8)
        as_far += int((np.abs(signs @ moved) >= least).sum())
    return (as_far + 1) / (flips + 1)


def _blocks(rows: int, columns: int) -> list[int]:
    """`rows` in parts that, `columns` wide, fit in memory."""
    most = max(1, _CELLS_AT_ONCE // columns)
    return [min(most, rows - start) for start in range(0, rows, most)]
