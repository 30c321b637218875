"""Subtitles (SubRip, WebVTT, SBV, SubStation Alpha) -> blocks: the spoken text in sentences, with its speakers.

A cue ends where the screen is full, not where the sentence does: cues are joined until the speaker changes, or nobody
speaks for a while.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lift.documents.blocks import LINE, PARAGRAPH, Block, Content
from lift.documents.plain_text import SENTENCE_END
from lift.errors import DocumentError

_TIME = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_SPAN = re.compile(rf"\s*{_TIME}\s*(?:-->|,)\s*{_TIME}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s>]{0,100})?\s{1,9}([^>]{1,200})>")
_TAG = re.compile(r"</?[a-zA-Z0-9][^<>]{0,200}>")
_OVERRIDE = re.compile(r"\{\\[^{}]{0,500}\}")
_NO_CUE = ("WEBVTT", "NOTE", "STYLE", "REGION", "X-TIMESTAMP-MAP")
_DIALOGUE = re.compile(r"Dialogue:\s*(.*)", re.IGNORECASE)
_ASS_FIELDS = 10
_PAUSE_S = 4.0
_LONG_CHARS = 600


@dataclass(frozen=True)
class _Cue:
    """A subtitle, shown at a time in seconds from the beginning; `speaker` where the file names one."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    speaker: str | None = None


def read_subtitles(text: str, name: str) -> Content:
    """Read the spoken text; raises DocumentError where no line of it has a time."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    cues = sorted(_dialogue_cues(text) or _timed_cues(text), key=lambda cue: cue.start_s)
    if not cues:
        raise DocumentError(f"{name}: expected subtitles, got no line with a time; save the spoken text alone as txt")
    return Content(None, list(_blocks(cues)))


def _timed_cues(text: str) -> list[_Cue]:
    cues: list[_Cue] = []
    times: tuple[float, float] | None = None
    lines: list[str] = []
    is_skipped = False
    for line in [*text.split("\n"), ""]:
        if found := _SPAN.fullmatch(line):
            if times is not None:
                # a number without a blank line before it is that of the next cue
                cues += _cues(times, lines[:-1] if lines and lines[-1].strip().isdecimal() else lines)
            times, lines, is_skipped = (_seconds(found.groups()[:4]), _seconds(found.groups()[4:])), [], False
        elif not line.strip():
            if times is not None:
                cues += _cues(times, lines)
            times, lines, is_skipped = None, [], False
        elif times is not None and not is_skipped:
            lines.append(line)
        elif line.startswith(_NO_CUE):
            is_skipped = True
    return cues


def _cues(times: tuple[float, float], lines: list[str]) -> Iterator[_Cue]:
    """The cues of a time, one for each voice."""
    speaker: str | None = None
    found: list[tuple[str | None, list[str]]] = []
    for line in lines:
        for index, piece in enumerate(_VOICE.split(line)):
            if index % 2:
                speaker = html.unescape(piece).strip()
            elif plain := _plain(piece):
                if found and found[-1][0] == speaker:
                    found[-1][1].append(plain)
                else:
                    found.append((speaker, [plain]))
    for voice, spoken in found:
        yield _Cue(times[0], times[1], tuple(spoken), voice)


def _dialogue_cues(text: str) -> list[_Cue]:
    """The cues of SubStation Alpha: times, style and speaker before the text, by commas."""
    cues = []
    for line in text.split("\n"):
        found = _DIALOGUE.match(line)
        fields = found.group(1).split(",", _ASS_FIELDS - 1) if found else []
        if len(fields) != _ASS_FIELDS:
            continue
        times = [re.fullmatch(r"\s*" + _TIME, field) for field in fields[1:3]]
        lines = [plain for piece in re.split(r"\\[Nn]", fields[-1]) if (plain := _plain(piece))]
        if times[0] and times[1] and lines:
            start, end = (_seconds(time.groups()) for time in times if time)
            cues.append(_Cue(start, end, tuple(lines), fields[4].strip() or None))
    return cues


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub("", _OVERRIDE.sub("", text))).replace("\\h", " ").split())


def _seconds(groups: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = groups
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0) + float(f"0.{fraction}")


def _blocks(cues: list[_Cue]) -> Iterator[Block]:
    """Paragraphs of the cues; captions that roll show each line twice, of which one is kept."""
    said: list[str] = []
    previous: _Cue | None = None
    separator = PARAGRAPH

    def paragraph() -> Block:
        voice = previous.speaker if previous is not None else None
        return Block((f"{voice}: " if voice else "") + " ".join(said), separator=separator)

    for shown_cue in cues:
        cue = shown_cue
        if cue.speaker is None and previous is not None and said and not SENTENCE_END.search(said[-1]):
            cue = replace(cue, speaker=previous.speaker)  # the file names a voice where it begins, not in each cue
        shown = previous.lines if previous is not None and cue.speaker == previous.speaker else ()
        is_rolling = previous is not None and cue.start_s - previous.end_s < _PAUSE_S
        lines = [line for line in cue.lines if not (is_rolling and line in shown)]
        is_turn = bool(lines) and lines[0].startswith(("- ", "– ", "— ", "-", ">>"))
        if said and previous is not None:
            is_long = sum(map(len, said)) > _LONG_CHARS and bool(SENTENCE_END.search(said[-1]))
            is_pause = cue.start_s - previous.end_s >= _PAUSE_S and bool(SENTENCE_END.search(said[-1]))
            if cue.speaker != previous.speaker or is_turn or is_long or is_pause:
                yield paragraph()
                separator = LINE if is_turn else PARAGRAPH
                said = []
        for index, line in enumerate(lines):
            if index and line.startswith(("- ", "– ", "— ", ">>")) and said:
                previous = cue
                yield paragraph()
                separator, said = LINE, []
            said.append(line)
        previous = cue
    if said:
        yield paragraph()
