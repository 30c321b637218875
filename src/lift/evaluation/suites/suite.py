"""A suite: a name, where its data comes from, and a function that reads it as records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from lift.config import Settings
from lift.errors import UsageError
from lift.evaluation.data_files import BadData
from lift.evaluation.records import Record


class SuiteSettings(Settings):
    """The settings of a suite; each suite takes those that it names, and `limit`, `excerpt_tokens` always."""

    data: Path | None = Field(None, description="the file or directory of the data")
    limit: int | None = Field(None, ge=1, description="only the first so many documents")
    questions_limit: int | None = Field(None, ge=1, description="only the first so many questions of a document")
    excerpt_tokens: int = Field(0, ge=0, description="texts cut to at most this many tokens (excerpts.py); 0: whole")
    per: Literal["article", "paragraph"] = Field("article", description="squad: what becomes one memory")
    tasks: tuple[str, ...] = Field((), description="longbench, ruler: which tasks; empty: all")
    lengths: tuple[int, ...] = Field((1024, 2048, 4096, 8192), description="niah, ruler: lengths of texts in tokens")
    depths: tuple[float, ...] = Field(
        (0.0, 0.25, 0.5, 0.75, 1.0), description="niah: where the needle lies, as a share of the length, 0 to 1"
    )
    needles: int = Field(1, ge=1, description="niah: needles in one text, each at a depth of its own")
    samples: int = Field(1, ge=1, description="niah, ruler: texts for each cell of the grid")
    seed: int = Field(0, ge=0, description="niah, ruler: what is drawn")
    needle: str = Field("", description="niah: this needle in every text, instead of drawn ones")
    question: str = Field("", description="niah: what is asked about that needle")
    keywords: tuple[str, ...] = Field((), description="niah: words that a right answer about it holds, in any case")
    preface: str = Field("", description="niah: what stands above the haystack")


@dataclass(frozen=True)
class Reading:
    """The tools that a suite reads with: its settings, the model's tokens, and where bad data is reported.

    `offsets` gives the characters [start, end) of each token of a text, for the model at hand.
    """

    settings: SuiteSettings
    offsets: Callable[[str], list[tuple[int, int]]]
    bad: BadData


@dataclass(frozen=True)
class Suite:
    """A benchmark. `takes`: the settings that it reads beside limit, questions_limit and excerpt_tokens.

    `data`: which file to put where, for whoever has none; empty where the suite writes its own texts.
    """

    name: str
    summary: str
    data: str
    takes: frozenset[str]
    read: Callable[[Reading], Iterator[Record]]

    def check(self, settings: SuiteSettings) -> None:
        """Raise UsageError for settings that this suite does not take, and for data that is missing."""
        given = settings.model_fields_set - {"limit", "questions_limit", "excerpt_tokens"}
        if surplus := sorted(given - self.takes):
            takes = ", ".join(sorted(self.takes)) or "none of them"
            raise UsageError(f"the suite {self.name} does not take {', '.join(surplus)}; it takes {takes}")
        if self.data and (settings.data is None or not settings.data.exists()):
            found = "none" if settings.data is None else f"{str(settings.data)!r}, which is not there"
            raise UsageError(f"expected --data for the suite {self.name}, got {found}; {self.data}")
