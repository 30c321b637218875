"""Two evaluations side by side: the same questions by the same methods, and what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lift.evaluation.report.quality_tables import main_score, metric_title
from lift.evaluation.report.tables import p_value, percent, with_interval
from lift.evaluation.run_files import RunData
from lift.evaluation.significance import PairedDifference, holm, paired_difference

MOST_CHANGES = 20
LONGEST_TEXT = 80
DIFFERENCE_COLUMNS = ("Suite", "Method", "Metric", "A, %", "B, %", "B - A, points", "p adjusted", "Better", "Questions")
CHANGE_COLUMNS = ("Suite", "Document", "Question", "Method", "A, %", "B, %", "Answer of A", "Answer of B")
SETTINGS = ("model", "fingerprint", "machine", "command", "versions", "recipes", "budget_s", "judge")

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class MethodDifference:
    """Main score of one method on one suite in both runs, shares from 0 to 1; `pair` is b less a, `adjusted` its p."""

    suite: str
    method: str
    metric: str
    mean_a: float
    mean_b: float
    pair: PairedDifference
    adjusted: float


@dataclass(frozen=True)
class Change:
    """One question whose score is another in b than in a; `line_a`, `line_b`: its lines of the two results.jsonl."""

    suite: str
    document: str
    question_id: str
    method: str
    question: str
    score_a: float
    score_b: float
    answer_a: str
    answer_b: str
    line_a: int
    line_b: int


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other: their common cells and their differences.

    `only_a`, `only_b`: answers that the other run has none for. `unlike`: answers that both have, left out since the
    question, its references or its main metric are not the same. `settings`: what of run.json differs, as (name, a, b).
    `changes`: the questions whose scores differ most, at most 20, and `changed` how many there are in all.
    """

    differences: tuple[MethodDifference, ...]
    changes: tuple[Change, ...]
    changed: int
    only_a: int
    only_b: int
    unlike: int
    settings: tuple[tuple[str, str, str], ...]

    def rows(self) -> list[list[str]]:
        """Texts of a table: the names of the columns, then a row for each suite, method and metric."""
        made = [list(DIFFERENCE_COLUMNS)]
        for each in self.differences:
            pair = each.pair
            made.append(
                [
                    each.suite,
                    each.method,
                    metric_title(each.metric),
                    percent(each.mean_a),
                    percent(each.mean_b),
                    with_interval(pair.mean, pair.low, pair.high, "+"),
                    p_value(each.adjusted),
                    f"{pair.better} / {pair.worse} / {pair.equal}",
                    str(pair.n),
                ]
            )
        return made

    def changed_rows(self) -> list[list[str]]:
        """Texts of a table: the names of the columns, then the questions that changed most; long texts are cut."""
        made = [list(CHANGE_COLUMNS)]
        for each in self.changes:
            scores = percent(each.score_a), percent(each.score_b)
            texts = [_short(text) for text in (each.question, each.answer_a, each.answer_b)]
            made.append([each.suite, each.document, texts[0], each.method, *scores, *texts[1:]])
        return made

    def remarks(self) -> list[str]:
        """Remarks, a sentence each: what could not be compared, and which settings differ."""
        sides = ((self.only_a, "A"), (self.only_b, "B"))
        said = [f"{count:,} answers are only in {run}" for count, run in sides if count]
        if self.unlike:
            said.append(f"{self.unlike:,} answers are left out: question, references or metric are not the same")
        if self.changed:
            said.append(f"{self.changed:,} scores changed")
        return [*said, *(f"{name} differs: {_short(a)} in A, {_short(b)} in B" for name, a, b in self.settings)]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def compare(a: RunData, b: RunData) -> Comparison:
    """Match the answers of two runs by suite, document, question and method, and compare their main scores."""
    lines_a, lines_b = _by_key(a), _by_key(b)
    both = [key for key in lines_a if key in lines_b]
    alike = [key for key in both if all(lines_a[key][1][name] == lines_b[key][1][name] for name in _ALIKE)]
    groups: dict[tuple[str, str, str], list[Key]] = {}
    for key in alike:
        groups.setdefault((key[0], key[3], str(lines_a[key][1]["main"])), []).append(key)
    scores = {key: (main_score(lines_a[key][1]), main_score(lines_b[key][1])) for key in alike}
    pairs = {
        group: paired_difference(
            [scores[key][1] for key in keys], [scores[key][0] for key in keys], [k[1] for k in keys]
        )
        for group, keys in groups.items()
    }
    adjusted = holm({"\n".join(group): pair.p_value for group, pair in pairs.items()})
    differences = tuple(
        MethodDifference(
            *group,
            sum(scores[key][0] for key in keys) / len(keys),
            sum(scores[key][1] for key in keys) / len(keys),
            pairs[group],
            adjusted["\n".join(group)],
        )
        for group, keys in groups.items()
    )
    changed = sorted(
        (key for key in alike if scores[key][0] != scores[key][1]),
        key=lambda key: -abs(scores[key][1] - scores[key][0]),
    )
    return Comparison(
        differences,
        tuple(_change(key, lines_a[key], lines_b[key]) for key in changed[:MOST_CHANGES]),
        len(changed),
        len(lines_a) - len(both),
        len(lines_b) - len(both),
        len(both) - len(alike),
        _settings(a.description, b.description),
    )


_ALIKE = ("question", "gold", "main")


def _by_key(run: RunData) -> dict[Key, tuple[int, Mapping[str, Any]]]:
    return {
        (row["suite"], row["document"], row["question_id"], row["method"]): (line, row)
        for line, row in enumerate(run.results, 1)
    }


def _change(key: Key, a: tuple[int, Mapping[str, Any]], b: tuple[int, Mapping[str, Any]]) -> Change:
    suite, document, question_id, method = key
    (line_a, row_a), (line_b, row_b) = a, b
    return Change(
        suite,
        document,
        question_id,
        method,
        str(row_a["question"]),
        main_score(row_a),
        main_score(row_b),
        _reply(row_a),
        _reply(row_b),
        line_a,
        line_b,
    )


def _reply(row: Mapping[str, Any]) -> str:
    return str(row["answer"]) if row["error"] is None else f"error: {row['error']}"


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, str(a.get(name)), str(b.get(name))) for name in SETTINGS if a.get(name) != b.get(name))


def _short(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= LONGEST_TEXT else f"{joined[: LONGEST_TEXT - 1]}…"
