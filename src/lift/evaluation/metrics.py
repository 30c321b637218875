"""Every way to score an answer against its references, each from 0 to 1, as the official scorers do it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from lift.answering import scoring
from lift.answering.abstention import abstains
from lift.errors import UsageError, nearest_hint
from lift.evaluation import longbench_metrics as longbench
from lift.evaluation.records import ANSWER_METRICS

_Score = Callable[[str, Sequence[str], Sequence[str]], float]
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f]")


@dataclass(frozen=True)
class Metric:
    """One way to score.

    `title` heads a column of a table; `score` takes answer, references and choices, gives 0 to 1, and leaves empty
    answers to the function of that name below; `package`: what must be installed for it beside Lift, or "".
    """

    name: str
    title: str
    summary: str
    score: _Score
    package: str = ""


def score(
    answer: str,
    references: Sequence[str],
    metrics: Sequence[str],
    choices: Sequence[str] = (),
    first_line: bool = False,
) -> dict[str, float]:
    """The answer's value by each of `metrics`, 0 to 1, under their names; the best over the references unless stated.

    Without references the document answers nothing: all are 1 where the answer abstains, 0 otherwise (SQuAD 2.0). With
    them, an answer without any visible character is worth 0 by all, even where a reference is empty once normalised;
    one that refuses to answer is worth 0 by SQuAD's metrics, whatever words it shares with a reference.
    `choices` are all classes of a label; `first_line` scores only the answer's first line, as LongBench does in some
    tasks. Raises UsageError as check_metrics does, and DataError for a reference that a metric cannot read.
    """
    check_metrics(metrics)
    scored = longbench.first_line(answer) if first_line else answer
    if not references:
        return dict.fromkeys(metrics, float(abstains(scored)))
    if not scored.strip():
        return dict.fromkeys(metrics, 0.0)
    worthless = ANSWER_METRICS if refuses(scored, references) else ()
    return {name: 0.0 if name in worthless else METRICS[name].score(scored, references, choices) for name in metrics}


def refuses(answer: str, references: Sequence[str]) -> bool:
    """Whether `answer` abstains where there is an answer, which none of `references` denies ("unknown")."""
    return bool(references) and abstains(answer) and not any(abstains(reference) for reference in references)


def check_metrics(names: Sequence[str]) -> None:
    """Raise UsageError where a name is no metric (naming the nearest), or a metric's package is not installed."""
    for name in names:
        if name not in METRICS:
            raise UsageError(f"expected a metric of {', '.join(METRICS)}, got {name!r}{nearest_hint(name, METRICS)}")
        package = METRICS[name].package
        if package and find_spec(package) is None:
            raise UsageError(
                f"expected the package {package} for the metric {name}, found none; run: make setup EXTRAS=evaluate"
            )


def _choiceless(of_references: Callable[[str, Sequence[str]], float]) -> _Score:
    return lambda answer, references, choices: of_references(answer, references)


def _best(single: Callable[[str, str], float]) -> _Score:
    def score_best(answer: str, references: Sequence[str], choices: Sequence[str]) -> float:
        return max((single(answer, reference) for reference in references), default=0.0)

    return score_best


def _rouge(kind: str) -> Callable[[str, str], float]:
    def score_rouge(answer: str, reference: str) -> float:
        return float(_rouge_scorer(kind).score(reference, answer)[kind].fmeasure)

    return score_rouge


@lru_cache
def _rouge_scorer(kind: str) -> Any:
    return import_module("rouge_score.rouge_scorer").RougeScorer([kind], use_stemmer=True)


def _bleu(answer: str, reference: str) -> float:
    bleu = import_module("sacrebleu").sentence_bleu(answer, [reference], use_effective_order=True)
    return min(1.0, float(bleu.score) / 100)  # the package gives 100.00000000000004 for equal texts


def _chrf(answer: str, reference: str) -> float:
    return min(1.0, float(import_module("sacrebleu").sentence_chrf(answer, [reference]).score) / 100)


class _NoSynonyms:
    """Stands in for WordNet, whose data has to be downloaded; METEOR then has its exact and its stem stage left."""

    def synsets(self, word: str) -> list[Any]:
        return []


def _meteor(answer: str, reference: str) -> float:
    # word_tokenize, the usual choice, needs downloaded data too; this one splits at every mark of punctuation
    split = import_module("nltk.tokenize").wordpunct_tokenize
    single = import_module("nltk.translate.meteor_score").single_meteor_score
    return float(single(split(reference), split(answer), wordnet=_NoSynonyms()))


def _ruler_hits(answer: str, references: Sequence[str]) -> list[bool]:
    printed = _CONTROL_CHARACTERS.sub("\n", answer.strip()).strip().lower()
    return [reference.lower() in printed for reference in references]


def _ruler_all(answer: str, references: Sequence[str]) -> float:
    hits = _ruler_hits(answer, references)
    return sum(hits) / len(hits) if hits else 0.0


def _ruler_part(answer: str, references: Sequence[str]) -> float:
    return float(any(_ruler_hits(answer, references)))


def _classification(answer: str, references: Sequence[str], choices: Sequence[str]) -> float:
    return max((longbench.classification(answer, reference, choices) for reference in references), default=0.0)


_ALL = (
    Metric(
        "contained",
        "contained",
        "1 where a reference is a run of whole words of the answer, after SQuAD's normalisation",
        _choiceless(scoring.contained),
    ),
    Metric(
        "f1",
        "F1",
        "harmonic mean of word precision and recall, as SQuAD 1.1 has it",
        _choiceless(scoring.f1),
    ),
    Metric(
        "exact_match",
        "exact match",
        "1 where the answer equals a reference, after SQuAD's normalisation",
        _choiceless(scoring.exact_match),
    ),
    Metric(
        "rouge1",
        "ROUGE-1",
        "F-measure of words, stemmed (rouge_score, use_stemmer)",
        _best(_rouge("rouge1")),
        "rouge_score",
    ),
    Metric(
        "rouge2",
        "ROUGE-2",
        "F-measure of word pairs, stemmed (rouge_score, use_stemmer)",
        _best(_rouge("rouge2")),
        "rouge_score",
    ),
    Metric(
        "rougeL",
        "ROUGE-L",
        "F-measure of the longest common run of words with gaps, stemmed (rouge_score, use_stemmer)",
        _best(_rouge("rougeL")),
        "rouge_score",
    ),
    Metric("bleu", "BLEU", "sentence BLEU-4 with effective order (sacrebleu, 13a, exp)", _best(_bleu), "sacrebleu"),
    Metric("chrf", "chrF", "sentence chrF2 over runs of 1 to 6 characters (sacrebleu)", _best(_chrf), "sacrebleu"),
    Metric(
        "meteor",
        "METEOR-like (no synonyms)",
        "METEOR's exact and stem stages without WordNet's synonyms (nltk); even equal texts stay below 1",
        _best(_meteor),
        "nltk",
    ),
    Metric(
        "choice", "accuracy", "1 where the letter chosen is right, by LongBench v2's patterns", _best(longbench.choice)
    ),
    Metric(
        "ruler_all",
        "RULER match",
        "share of the references that occur in the answer, in any case",
        _choiceless(_ruler_all),
    ),
    Metric(
        "ruler_part",
        "RULER match (any)",
        "1 where any reference occurs in the answer, in any case",
        _choiceless(_ruler_part),
    ),
    Metric(
        "niah_keywords",
        "all keywords",
        "1 where every reference occurs in the answer, in any case (a needle in a haystack, LIFT v5)",
        lambda answer, references, choices: float(_ruler_all(answer, references) == 1),
    ),
    Metric(
        "longbench_qa_f1",
        "F1 (LongBench)",
        "LongBench's word F1 of questions and answers, the same as SQuAD's",
        _choiceless(scoring.f1),
    ),
    Metric(
        "longbench_rouge",
        "ROUGE-L (LongBench)",
        "LongBench's F-measure of summary-level ROUGE-L, not stemmed (rouge)",
        _best(longbench.rouge),
        "rouge",
    ),
    Metric(
        "longbench_classification",
        "classification (LongBench)",
        "1 / the number of classes named, where the right one is among them",
        _classification,
    ),
    Metric(
        "longbench_retrieval",
        "retrieval (LongBench)",
        "share of the answer's numbers that are the right paragraph's",
        _best(longbench.retrieval),
    ),
    Metric(
        "longbench_qa_f1_zh",
        "F1 in Chinese (LongBench)",
        "LongBench's word F1 of Chinese answers, words by jieba",
        _best(longbench.qa_f1_zh),
        "jieba",
    ),
    Metric(
        "longbench_rouge_zh",
        "ROUGE-L in Chinese (LongBench)",
        "LongBench's ROUGE-L of Chinese texts, words by jieba (rouge)",
        _best(longbench.rouge_zh),
        "jieba",
    ),
    Metric(
        "longbench_retrieval_zh",
        "retrieval in Chinese (LongBench)",
        "share of the answer's numbers that are the right paragraph's",
        _best(longbench.retrieval_zh),
    ),
    Metric(
        "longbench_count", "count (LongBench)", "share of the answer's numbers that are right", _best(longbench.count)
    ),
    Metric(
        "longbench_code_sim",
        "code similarity (LongBench)",
        "likeness of characters of the first line of code (difflib, as LongBench's fuzzywuzzy falls back to)",
        _best(longbench.code_similarity),
    ),
)
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
