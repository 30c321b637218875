"""The scorers of LongBench and LongBench v2, value for value, quirks included: published numbers hold those too.

Sources: LongBench/metrics.py and eval.py (LongBench, Bai et al. 2024), pred.py (LongBench v2, Bai et al.
2025) of THUDM/LongBench. Each function takes one reference, each gives 0 to 1. Empty answers are the caller's concern.
"""

from __future__ import annotations

import difflib
import logging
import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lift.errors import DataError
from lift.models.fingerprint import cache_directory

_NUMBER = re.compile(r"\d+")
_PARAGRAPH = re.compile(r"Paragraph (\d+)")
_PARAGRAPH_ZH = re.compile(r"段落(\d+)")
# The marks that the official script takes out of Chinese words, with those of ASCII.
_MARKS_ZH = re.compile(
    f"[{re.escape(string.punctuation)}{re.escape('！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》')}"
    f"{re.escape('「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏.')}]"
)
_STATED_CHOICES = (
    re.compile(r"The correct answer is \(([A-D])\)"),
    re.compile(r"The correct answer is ([A-D])"),
)
_BARE_CHOICE = re.compile(r"\(([A-D])\)|([A-D])\.?")
_COMMENT_MARKS = ("`", "#", "//")


def first_line(answer: str) -> str:
    """The part of an answer that LongBench scores in trec, triviaqa and samsum."""
    return answer.lstrip("\n").split("\n")[0]


def rouge(answer: str, reference: str) -> float:
    """F-measure of the package rouge's summary-level ROUGE-L; it counts each distinct word once, and keeps case.

    As in the official script, 0 is given where the package cannot score: an answer without a sentence ("", "..."), and
    two sentences that are compared in more than about a thousand steps, one a word, which its recursion cannot take.
    """
    scorer = import_module("rouge").Rouge(metrics=["rouge-l"])
    try:
        return float(scorer.get_scores(answer, reference)[0]["rouge-l"]["f"])
    except (ValueError, RecursionError):
        return 0.0


def classification(answer: str, reference: str, classes: Sequence[str]) -> float:
    """1 / the number of `classes` named in the answer, where the reference is among them, else 0.

    Classes that are part of the reference's own name do not count. The official loop takes them out of the list that
    it runs over and so passes over the class behind each; kept, since published values have it.
    """
    named = [name for name in classes if name in answer]
    position = 0
    while position < len(named):
        name = named[position]
        if name in reference and name != reference:
            named.remove(name)
        position += 1
    return 1.0 / len(named) if reference in named else 0.0


def count(answer: str, reference: str) -> float:
    """The share of the answer's numbers that are the reference, written the same."""
    numbers = _NUMBER.findall(answer)
    return numbers.count(reference) / len(numbers) if numbers else 0.0


def retrieval(answer: str, reference: str) -> float:
    """The share of the answer's numbers that are N of the reference "Paragraph N"; raises DataError for another."""
    paragraph = _PARAGRAPH.search(reference)
    if paragraph is None:
        raise DataError(f"expected a reference like 'Paragraph 7', got {reference!r}; mend the data's answers")
    return count(answer, paragraph[1])


def retrieval_zh(answer: str, reference: str) -> float:
    """As retrieval, of the reference "段落N"; raises DataError for another."""
    paragraph = _PARAGRAPH_ZH.search(reference)
    if paragraph is None:
        raise DataError(f"expected a reference like '段落7', got {reference!r}; mend the data's answers")
    return count(answer, paragraph[1])


def rouge_zh(answer: str, reference: str) -> float:
    """As rouge, of texts whose words jieba has found."""
    return rouge(" ".join(_words_zh(answer)), " ".join(_words_zh(reference)))


def qa_f1_zh(answer: str, reference: str) -> float:
    """Harmonic mean of word precision and recall, of words that jieba has found, without marks and white space."""
    found, wanted = (
        Counter(bare for word in _words_zh(text) if (bare := "".join(_MARKS_ZH.sub("", word.lower()).split())))
        for text in (answer, reference)
    )
    same = (found & wanted).total()
    return 2 * same / (found.total() + wanted.total()) if same else 0.0


def _words_zh(text: str) -> list[str]:
    return list(_segmenter().cut(text, cut_all=False))


@lru_cache(maxsize=1)
def _segmenter() -> Any:
    jieba = import_module("jieba")
    jieba.setLogLevel(logging.WARNING)
    segmenter = jieba.Tokenizer()
    # what it keeps is read as code's own data: not out of a directory that everybody may write to
    segmenter.tmp_dir = str(cache_directory() / "jieba")
    Path(segmenter.tmp_dir).mkdir(parents=True, exist_ok=True)
    return segmenter


def code_similarity(answer: str, reference: str) -> float:
    """Likeness, in whole hundredths, of the reference and the answer's first line without a mark of comment or code.

    The official script asks fuzzywuzzy, which without python-Levenshtein (not among that script's requirements) takes
    difflib's ratio. Ratios by edit distance, as rapidfuzz has them, are others.
    """
    lines = answer.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in _COMMENT_MARKS)), "")
    return round(100 * difflib.SequenceMatcher(None, line, reference).ratio()) / 100


def choice(answer: str, reference: str) -> float:
    """1 where the answer's choice is the reference, a letter A to D.

    The choice is what stands behind "The correct answer is", in brackets or else without, asterisks apart, as the
    official script has it; further, an answer that is nothing but "B", "B." or "(B)". No choice is a wrong one.
    """
    plain = answer.replace("*", "").strip()
    for stated in _STATED_CHOICES:
        if found := stated.search(plain):
            return float(found[1] == reference)
    bare = _BARE_CHOICE.fullmatch(plain)
    return float(bare is not None and (bare[1] or bare[2]) == reference)
