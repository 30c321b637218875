"""Texts of a length in tokens with needles at depths in tokens, for the suites niah and ruler."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from lift.documents.read import read_document
from lift.documents.sentences import split_sentences
from lift.errors import UsageError

Offsets = Callable[[str], list[tuple[int, int]]]

# The haystack "noise" of RULER (NVIDIA/RULER, scripts/data/synthetic/niah.py).
NOISE = ("The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.")
SLACK_TOKENS = 32
MAX_TOKEN_CHARS = 16
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Haystack:
    """Whole sentences, each with the white space behind it, that texts are cut from; begun again where they end.

    `name` is what a document's title says of it, `source` where it was read from, `words` every word of the whole
    source in small letters.
    """

    name: str
    source: str
    sentences: tuple[str, ...]
    gaps: tuple[str, ...]
    words: frozenset[str]

    def join(self, indices: Sequence[int]) -> tuple[str, list[int]]:
        """The text of these sentences, and the characters where one may be put in: before each, and at the end."""
        parts = [self.sentences[index] + self.gaps[index] for index in indices]
        text = "".join(parts).rstrip()
        return text, [*accumulate((len(part) for part in parts[:-1]), initial=0), len(text)]


@dataclass(frozen=True)
class NeedleText:
    """A haystack with needles in it, and how deep each of them lies, as a share from 0 to 1.

    `tokens`: those of the text in its frame. The depth of a needle is the number of tokens before it by the number of
    all tokens, both of the text without needles.
    """

    text: str
    tokens: int
    depths: tuple[float, ...]


class NeedleWriter:
    """Puts needles into texts of one haystack, measured in the tokens that `offsets` gives."""

    def __init__(self, haystack: Haystack, offsets: Offsets) -> None:
        self.haystack = haystack
        self._offsets = offsets
        self._sizes_tokens = self._measure()

    def write(
        self,
        needles: Sequence[str],
        depths: Sequence[float],
        length_tokens: int,
        frame: Callable[[str], str] = str,
        answer_tokens: int = 0,
    ) -> NeedleText:
        """A text with each needle at the sentence boundary that is nearest to its depth, in tokens.

        `frame` of the text (for example the prompt that it stands in) and `answer_tokens` make at most `length_tokens`,
        and about SLACK_TOKENS less at the least: the haystack goes on while its next sentence fits, then sentences that
        are too long for what is left are passed over. Needles of one boundary stand in the order of `needles`. Raises
        UsageError for a depth that is no share, and for a length that has no room for a sentence beside the needles.
        """
        check_depths(depths)
        fixed_tokens = answer_tokens + self._count(frame("")) + sum(self._count(f"{needle} ") for needle in needles)
        room_tokens = length_tokens - fixed_tokens
        while indices := self._choose(room_tokens):
            text, reached = self._place(indices, needles, depths)
            tokens = self._count(frame(text))
            excess_tokens = tokens + answer_tokens - length_tokens
            if excess_tokens <= 0:
                return NeedleText(text, tokens, reached)
            room_tokens = min(room_tokens, sum(self._sizes_tokens[index] for index in indices)) - excess_tokens
        needed_tokens = fixed_tokens + min(self._sizes_tokens)
        raise UsageError(
            f"expected a length well over {needed_tokens} tokens, for {len(needles)} needles and a sentence of "
            f"{self.haystack.name} beside them, got {length_tokens}; ask for longer texts"
        )

    def _choose(self, room_tokens: int) -> list[int]:
        """The sentences, by index, that fill `room_tokens`."""
        count = len(self.haystack.sentences)
        chosen: list[int] = []
        index = passed = 0
        while passed < count:
            size_tokens = self._sizes_tokens[index % count]
            if size_tokens <= room_tokens:
                chosen.append(index % count)
                room_tokens -= size_tokens
                passed = 0
            elif chosen and room_tokens <= SLACK_TOKENS:
                break
            else:
                passed += 1
            index += 1
        return chosen

    def _place(
        self, indices: Sequence[int], needles: Sequence[str], depths: Sequence[float]
    ) -> tuple[str, tuple[float, ...]]:
        text, boundaries = self.haystack.join(indices)
        ends = [end for _, end in self._offsets(text)]
        before = [bisect_right(ends, boundary) for boundary in boundaries]
        places = [min(range(len(before)), key=lambda place: abs(before[place] - depth * len(ends))) for depth in depths]
        pieces: list[str] = []
        last = 0
        for place, needle in sorted(zip(places, needles, strict=True), key=lambda pair: pair[0]):
            boundary = boundaries[place]
            # behind the last sentence white space goes before the needle, elsewhere behind it, in the text's own way
            gap = self.haystack.gaps[indices[max(0, min(place, len(indices) - 1) - 1)]] or " "
            pieces += [text[last:boundary], gap + needle if place == len(indices) else needle + gap]
            last = boundary
        return "".join([*pieces, text[last:]]), tuple(before[place] / len(ends) for place in places)

    def _measure(self) -> list[int]:
        """Tokens of each sentence with its gap, as it stands behind the haystack's end and so in any later round."""
        parts = [sentence + gap for sentence, gap in zip(self.haystack.sentences, self.haystack.gaps, strict=True)]
        once = "".join(parts)
        ends = [end for _, end in self._offsets(once + once)]
        bounds = [bisect_right(ends, len(once) + start) for start in accumulate(map(len, parts), initial=0)]
        return [max(1, after - first) for first, after in pairwise(bounds)]

    def _count(self, text: str) -> int:
        return len(self._offsets(text)) if text else 0


def read_haystack(path: Path | None, longest_tokens: int, *, whole_lines: bool = False) -> Haystack:
    """The sentences of a document of any format that Lift reads, or without `path` the noise of RULER.

    `longest_tokens`: as many tokens as the longest text will have; what of a long document goes far beyond is left out.
    `whole_lines`: a needle never stands within a line of noise, only between two. Raises DocumentError where no text
    can be had from the file.
    """
    if path is None:
        words = _words(" ".join(NOISE))
        if whole_lines:
            return Haystack("noise", "generated", (" ".join(NOISE),), ("\n",), words)
        return Haystack("noise", "generated", NOISE, (*[" "] * (len(NOISE) - 1), "\n"), words)
    document = read_document(path)
    text = document.text[: longest_tokens * MAX_TOKEN_CHARS]
    sentences = split_sentences(text)
    if len(text) < len(document.text) and len(sentences) > 1:
        sentences.pop()  # cut off in its middle, perhaps
    texts = tuple(sentence.text for sentence in sentences)
    gaps = (*[text[first.end : second.start] for first, second in pairwise(sentences)], "\n\n")
    return Haystack(document.title, document.source, texts, gaps, _words(document.text))


def check_depths(depths: Sequence[float]) -> None:
    """Raise UsageError for a depth that is no share of the text, 0 to 1."""
    for depth in depths:
        if not 0 <= depth <= 1:
            remedy = f"for {depth:g} per cent write {depth / 100:g}" if 1 < depth <= 100 else "write 0.5 for the middle"
            raise UsageError(f"expected depths as shares of the text, 0 to 1, got {depth:g}; {remedy}")


class NeedleDrawer:
    """Draws pairs of a city and a word by seed: none twice, and no word again before all others were drawn.

    So what one text says is not what another one does, and a memory of one cannot answer for another by chance.
    Neither cities nor words that occur in the haystack are drawn.
    """

    def __init__(self, seed: int, haystack: Haystack) -> None:
        self._seed = seed
        self._haystack = haystack
        self._cities = [city for city in CITIES if city.lower() not in haystack.words]
        self._words = [word for word in WORDS if word not in haystack.words]
        self._drawn: set[tuple[str, str]] = set()
        self._uses: Counter[str] = Counter()

    def draw(self, cell: str, count: int) -> list[tuple[str, str]]:
        """`count` pairs for the text of that name, each with a city and a word of its own.

        Raises UsageError where there are no such pairs left.
        """
        generator = random.Random(f"{self._seed} {cell}")
        words = generator.sample(self._words, len(self._words))
        pairs: list[tuple[str, str]] = []
        for city in generator.sample(self._cities, len(self._cities)):
            left = [word for word in words if (city, word) not in self._drawn]
            if len(pairs) < count and left:
                word = min(left, key=self._uses.__getitem__)
                words.remove(word)
                pairs.append((city, word))
        if len(pairs) < count:
            raise UsageError(
                f"expected {count} needles that {self._haystack.name} does not hold, found {len(pairs)}: "
                f"{len(self._cities)} cities and {len(self._words)} words are not in it, and {len(self._drawn)} pairs "
                "are in other texts; ask for fewer needles or texts, or give another haystack by --data"
            )
        self._drawn.update(pairs)
        self._uses.update(word for _, word in pairs)
        return pairs


def _words(text: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(text))


_CITIES = (
    "Accra Adelaide Almaty Ankara Antwerp Asmara Austin Baku Bamako Bangkok Beirut Belgrade Bergen Bogota "
    "Bordeaux Brisbane Bucharest Budapest Cairo Calgary Cardiff Casablanca Chengdu Chicago Colombo Cusco Dakar "
    "Dallas Damascus Denver Dhaka Dresden Durban Edmonton Gdansk Geneva Guadalajara Hamburg Hanoi Havana Helsinki "
    "Hobart Houston Istanbul Jakarta Kampala Karachi Kathmandu Kigali Kingston Krakow Kyoto Lagos Leipzig Lima "
    "Lisbon Ljubljana Luanda Lusaka Lyon Madrid Manila Marseille Melbourne Miami Minsk Mombasa Montreal Mumbai "
    "Nairobi Naples Nicosia Osaka Oslo Ottawa Palermo Perth Porto Prague Quito Reykjavik Riga Rotterdam Salzburg "
    "Santiago Seattle Seoul Seville Singapore Sofia Stockholm Sydney Taipei Tallinn Tampere Tbilisi Tehran Tokyo "
    "Toronto Tunis Turin Utrecht Valencia Vancouver Vienna Vilnius Warsaw Wellington Yerevan Zagreb Zurich"
)
_WORDS = (
    "acorn almond anchor antler apricot arrow badger bamboo banjo barley basil beaver beetle bicycle biscuit "
    "blanket blossom bobbin bonfire bracket bramble bridge bucket buckle butter button cactus camera candle "
    "canyon caramel carpet cashew cedar cello chalk cherry chimney cinnamon clover cobalt coconut compass copper "
    "coral cotton cricket crystal cushion cymbal daisy dolphin donkey dragon drummer eagle ember falcon feather "
    "fender ferry fiddle flint fossil fountain gadget garlic gazelle ginger glacier goblet granite guitar hammer "
    "harbor hazel helmet heron hickory honey igloo iris island ivory jacket jaguar jasmine jigsaw juniper kernel "
    "kettle kitten ladder lagoon lantern lemon lentil lilac lizard lobster magnet mango maple marble meadow melon "
    "mirror mitten monkey muffin mustard napkin nectar noodle nutmeg oasis onion orchid otter oyster paddle panda "
    "papaya parrot peanut pebble pelican pencil pepper piano pickle pigeon pillow planet plum pocket poppy "
    "pretzel pumpkin puzzle quartz rabbit radish raven ribbon rocket saddle saffron salmon sandal scarf shovel "
    "sparrow spinach squirrel tambourine teapot thimble timber tomato trumpet tulip tunnel turnip turtle umbrella "
    "vanilla velvet violet walnut walrus whistle willow window zebra zipper"
)
CITIES = tuple(_CITIES.split(" "))
WORDS = tuple(_WORDS.split(" "))
