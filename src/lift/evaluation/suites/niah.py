"""A needle in a haystack: one planted sentence a question, on a grid of lengths and depths in tokens.

Needles are drawn, each text with one of its own; or all texts have the same, as the benchmark was published, with a
question and the keywords that a right answer must hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lift.documents.document import Document
from lift.errors import UsageError
from lift.evaluation.records import Asking, Question, Record
from lift.evaluation.suites.needles import NeedleDrawer, NeedleWriter, check_depths, read_haystack
from lift.evaluation.suites.suite import Reading, Suite, SuiteSettings

DEPTH_TOLERANCE = 0.1
ASKING = Asking(judged=False)
KEYWORDS_ASKING = Asking(metrics=("niah_keywords",), judged=False)


def read(reading: Reading) -> Iterator[Record]:
    """One record for each text: for every length and sample, and every depth or group of `needles` depths.

    Depths are dealt to the texts in turn, so that the needles of one text are far apart; where they do not come out
    even, the last texts have one needle less. Raises UsageError for settings that make no grid, and where no sentence
    ends within DEPTH_TOLERANCE of a depth; DocumentError where the haystack cannot be read.
    """
    settings = reading.settings
    depths, lengths = list(dict.fromkeys(settings.depths)), list(dict.fromkeys(settings.lengths))
    check_depths(depths)
    if not depths or not lengths:
        raise UsageError(
            f"expected lengths and depths, got {len(lengths)} and {len(depths)}; give at least one of each"
        )
    if settings.needles > len(depths):
        raise UsageError(
            f"expected a depth for each of the {settings.needles} needles of a text, got {len(depths)}; "
            "give more depths or fewer needles"
        )
    _check_own_needle(settings)
    texts = -(-len(depths) // settings.needles)
    haystack = read_haystack(settings.data, max(lengths))
    writer = NeedleWriter(haystack, reading.offsets)
    drawer = NeedleDrawer(settings.seed, haystack)
    for length in lengths:
        for sample in range(settings.samples):
            for first in range(texts):
                yield _record(writer, drawer, settings, length, sample, depths[first::texts])


def _check_own_needle(settings: SuiteSettings) -> None:
    """Raise UsageError where a needle comes without its question or keywords, or these without a needle."""
    given = [name for name in ("needle", "question", "keywords") if getattr(settings, name)]
    if given and len(given) < 3:
        raise UsageError(f"expected a needle together with its question and keywords, got {' and '.join(given)} alone")
    if given and settings.needles > 1:
        raise UsageError(
            f"expected one needle a text where all are the same, got {settings.needles}; leave needles out"
        )


def _record(
    writer: NeedleWriter,
    drawer: NeedleDrawer,
    settings: SuiteSettings,
    length: int,
    sample: int,
    depths: Sequence[float],
) -> Record:
    name = f"niah-{length}-{'+'.join(f'{depth:g}' for depth in depths)}-{sample}"
    frame = f"{settings.preface}\n{{}}" if settings.preface else "{}"
    if settings.needle:
        needles, asked = [settings.needle.strip()], [(settings.question, settings.keywords)]
    else:
        pairs = drawer.draw(name, len(depths))
        needles = [f"The secret word of {city} is {word}." for city, word in pairs]
        asked = [(f"What is the secret word of {city}?", (word,)) for city, word in pairs]
    written = writer.write(needles, depths, length, lambda text: frame.replace("{}", text))
    for depth, reached in zip(depths, written.depths, strict=True):
        if abs(depth - reached) > DEPTH_TOLERANCE:
            raise UsageError(
                f"expected a sentence that ends near depth {depth:g} in {length} tokens of {writer.haystack.name}, the "
                f"nearest ends at {reached:.2f}; ask for longer texts, or give a haystack with shorter sentences"
            )
    questions = tuple(
        Question(f"{name}-{depth:g}", question, answers, (needle,), "niah")
        for depth, needle, (question, answers) in zip(depths, needles, asked, strict=True)
    )
    cells = {
        question.id: {"length": float(length), "depth": depth}
        for question, depth in zip(questions, depths, strict=True)
    }
    text = frame.replace("{}", written.text)
    document = Document(f"{writer.haystack.name}, {name}", text, writer.haystack.source)
    return Record(name, document, questions, KEYWORDS_ASKING if settings.needle else ASKING, cells)


SUITE = Suite(
    name="niah",
    summary="a needle in a haystack: one planted sentence a question, by length and depth in tokens",
    data="",
    takes=frozenset(
        {"data", "lengths", "depths", "needles", "samples", "seed", "needle", "question", "keywords", "preface"}
    ),
    read=read,
)
