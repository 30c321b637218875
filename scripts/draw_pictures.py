"""The drawings of docs/how-it-works.md, as SVG with plain text: `python scripts/draw_pictures.py [DIRECTORY]`.

DIRECTORY is docs/pictures by default. Each drawing has a panel of its own behind it and follows the reader's choice of
light or dark, so it is readable on a page of either kind. Needs nothing but Python.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

Point = tuple[float, float]

_LINE_PX = 18
_HEADING_PX = 24
_STYLE = """
  svg { --panel: #ffffff; --edge: #d0d7de; --text: #1f2328; --soft: #59636e; --line: #6e7781;
        --plain: #f6f8fa; --work: #ddf4ff; --work-edge: #54aeff; --store: #dafbe1; --store-edge: #4ac26b;
        --door: #fff8c5; --door-edge: #d4a72c; --checked: #fbefff; --checked-edge: #c297ff; }
  @media (prefers-color-scheme: dark) {
    svg { --panel: #0d1117; --edge: #30363d; --text: #e6edf3; --soft: #9198a1; --line: #8b949e;
          --plain: #161b22; --work: #0c2d4d; --work-edge: #388bfd; --store: #0f2f1a; --store-edge: #2ea043;
          --door: #332a0b; --door-edge: #9e6a03; --checked: #2a1a45; --checked-edge: #8957e5; }
  }
  text { white-space: pre; fill: var(--text);
         font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
  .heading { font-size: 15px; font-weight: 600; }
  .line { font-size: 13px; }
  .soft { font-size: 13px; fill: var(--soft); }
  .code { font-size: 12.5px; font-family: ui-monospace, "SF Mono", "Noto Sans Mono", "DejaVu Sans Mono", monospace; }
  .panel { fill: var(--panel); stroke: var(--edge); }
  .plain { fill: var(--plain); stroke: var(--edge); }
  .work { fill: var(--work); stroke: var(--work-edge); }
  .store { fill: var(--store); stroke: var(--store-edge); }
  .door { fill: var(--door); stroke: var(--door-edge); }
  .checked { fill: var(--checked); stroke: var(--checked-edge); }
  .arrow { fill: none; stroke: var(--line); stroke-width: 1.6; }
  .dashed { stroke-dasharray: 5 4; }
  marker path { fill: var(--line); }
"""


class Picture:
    """Boxes, arrows and text on a panel of `width` by `height` pixels; `title` says it to those who do not see it."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n'
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z"/></marker></defs>\n'
            f'<rect class="panel" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"/>\n'
        )
        self._items: list[str] = []

    def text(self, at: Point, words: str, style: str = "line", anchor: str = "start") -> None:
        """One line of text, its baseline at that point."""
        x, y = at
        self._items.append(
            f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}" xml:space="preserve">'
            f"{escape(words)}</text>"
        )

    def box(
        self,
        at: Point,
        size: Point,
        heading: str,
        lines: Sequence[str] = (),
        kind: str = "plain",
        *,
        at_top: bool = False,
    ) -> None:
        """A box with a heading and lines below it, centred from top to bottom or `at_top`."""
        (x, y), (width, height) = at, size
        self._items.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7"/>')
        room = 0 if at_top else height - _HEADING_PX - _LINE_PX * len(lines)
        first = y + max(room / 2, 8) + 17
        self.text((x + 12, first), heading, "heading")
        for number, line in enumerate(lines, start=1):
            self.text((x + 12, first + 4 + number * _LINE_PX), line)

    def arrow(self, points: Sequence[Point], words: str = "", at: Point | None = None, *, dashed: bool = False) -> None:
        """An arrow through these points, with words at `at`, which are centred there."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        self._items.append(f'<path class="arrow{" dashed" if dashed else ""}" d="{path}" marker-end="url(#tip)"/>')
        if words and at:
            self.text(at, words, "soft", "middle")

    def write(self, path: Path) -> None:
        """The drawing as a file."""
        path.write_text(self._head + "\n".join(self._items) + "\n</svg>\n", "utf-8")


def draw_absorbing() -> Picture:
    """A document -> sentences -> tasks -> packed examples -> adapter -> memory, with one sentence of an example."""
    picture = Picture(980, 452, "How a document becomes a memory")
    sentences = ["...", "“The monthly rent is 840 euros, due", "  on the fifth day of each month.”", "..."]
    picture.box((24, 24), (290, 112), "document, in sentences", sentences)
    tasks = ["What is the monthly rent?", "   → 840 euros", "What is 840 euros?", "   → The monthly rent"]
    picture.box((382, 24), (272, 112), "tasks to train on", tasks, "work")
    examples = ["prompt, as it will be asked", "answer, as it will be given", "loss at the answer alone"]
    picture.box((722, 24), (234, 112), "examples", examples, "work")
    picture.arrow([(314, 80), (380, 80)], "rules", (347, 72))
    picture.arrow([(654, 80), (720, 80)], "tokens", (687, 72))

    picture.box((722, 186), (234, 242), "packed batch: a trie", ["shared tokens, computed once"], "work", at_top=True)
    picture.arrow([(839, 136), (839, 184)], "pack", (862, 165))
    _draw_trie(picture, (734, 284))

    adapter = [
        "LoRA of rank 16, upper half of the layers",
        "acts on the answer's tokens alone",
        "the base stays as it is",
    ]
    picture.box((382, 186), (272, 100), "adapter on the frozen base", adapter, "work")
    picture.arrow([(722, 236), (656, 236)], "train", (689, 228))

    held_out = ["never trained, asked at the end:", "The monthly rent is how many euros?", "   → 840"]
    picture.box((24, 186), (290, 100), "held-out questions", held_out, "checked")
    picture.arrow([(169, 136), (169, 184)], "rules", (194, 165))
    picture.arrow([(314, 236), (380, 236)], "ask", (347, 228))

    files = ["adapter, text, tasks, training log,", "recall report, hash of every file"]
    picture.box((382, 336), (272, 92), "memory: a folder on disk", files, "store")
    report = ["which sentences it can be shown to know,", "and which not"]
    picture.box((24, 336), (290, 92), "recall report", report, "checked")
    picture.arrow([(518, 286), (518, 334)], "store", (542, 320))
    picture.arrow([(440, 286), (440, 311), (169, 311), (169, 334)], "its answers", (300, 305))
    picture.arrow([(314, 382), (380, 382)])
    return picture


def _draw_trie(picture: Picture, at: Point) -> None:
    """Two examples that begin alike; `at` is the baseline of what they share."""
    x, y = at
    picture.text((x, y), "(template) What is", "code")
    picture.text((x + 34, y + 46), "840 euros? → ...", "code")
    picture.text((x + 34, y + 86), "the monthly rent?", "code")
    picture.text((x + 34, y + 103), "→ ...", "code")
    picture.arrow([(x + 10, y + 8), (x + 10, y + 42), (x + 30, y + 42)])
    picture.arrow([(x + 10, y + 42), (x + 10, y + 82), (x + 30, y + 82)])


def draw_asking() -> Picture:
    """A question -> strategies -> vote -> evidence, as `auto` goes about it."""
    picture = Picture(980, 400, "How a question is answered")
    picture.box((24, 150), (210, 84), "question", ["“How much is the", "  monthly rent?”"])
    picture.text((129, 262), "the strategy of --context auto", "soft", "middle")

    read = ["BM25 finds three sentences of the text;", "the reader answers behind them"]
    picture.box((300, 24), (300, 92), "read", read, "work")
    recall = ["nothing of the text in the prompt;", "the memory answers from its weights"]
    picture.box((300, 146), (300, 92), "recall", recall, "work")
    wider = [
        "three more sentences as well; not where",
        "one sentence alone has every word of the",
        "question that the text knows",
    ]
    picture.box((300, 268), (300, 108), "read wider, where the two differ", wider, "work")
    picture.arrow([(234, 180), (266, 180), (266, 70), (298, 70)])
    picture.arrow([(234, 192), (298, 192)])
    picture.arrow([(234, 204), (266, 204), (266, 322), (298, 322)], dashed=True)

    vote = [
        "the answer that is likeliest by",
        "log P(reader, behind the evidence)",
        "+ ½ (log P(memory) − log P(prior));",
        "equal answers need no vote",
    ]
    picture.box((668, 24), (288, 130), "vote", vote, "work")
    picture.arrow([(600, 70), (666, 70)])
    picture.arrow([(600, 192), (628, 192), (628, 92), (666, 92)])
    picture.arrow([(600, 322), (646, 322), (646, 114), (666, 114)], dashed=True)

    rules = ["does a sentence of the text answer", "this question with this answer?"]
    picture.box((668, 196), (288, 84), "attribution, by rules", rules, "checked")
    picture.arrow([(812, 154), (812, 194)])
    flags = ["supported, found in, or no support"]
    picture.box((668, 316), (288, 60), "answer: “840 euros”", flags, "store")
    picture.arrow([(812, 280), (812, 314)])
    return picture


def draw_data_flow() -> Picture:
    """The packages, with what goes from one to the next."""
    picture = Picture(1040, 620, "The packages of Lift, and what goes from one to the next")
    picture.box(
        (24, 24), (560, 62), "cli · api · server", ["the doors: they parse, call and print, and hold no logic"], "door"
    )
    picture.box((608, 24), (196, 62), "evaluation", ["quality, costs, harms"], "checked")
    picture.box((820, 24), (196, 62), "bench", ["speed, memory, limits"], "checked")

    picture.box((24, 142), (330, 62), "absorbing", ["the run: plan, training, recall report, updates"], "work")
    picture.box((410, 142), (150, 62), "jobs", ["a queue on disk"], "work")
    picture.box((608, 142), (196, 62), "serving", ["many callers, one batch"], "work")
    picture.box((860, 142), (156, 62), "answering", ["strategies, vote"], "work")
    picture.arrow([(99, 86), (99, 140)], "document", (134, 118))
    picture.arrow([(485, 86), (485, 140)], "upload", (510, 118))
    picture.arrow([(410, 173), (356, 173)])
    picture.arrow([(560, 86), (560, 113), (706, 113), (706, 140)], "question", (640, 107))
    picture.arrow([(706, 113), (938, 113), (938, 140)])
    picture.arrow([(804, 173), (858, 173)])

    picture.box((24, 266), (150, 76), "documents", ["any file → text,", "sentences, BM25"])
    picture.box((204, 266), (150, 76), "tasks", ["sentences →", "questions, answers"])
    picture.box((410, 266), (150, 76), "training", ["loop, objective,", "checkpoint, pace"])
    picture.box((608, 266), (196, 76), "remote", ["a model behind an API", "instead of an adapter"])
    picture.box((820, 266), (196, 76), "inference", ["prefill, KV cache, scheduler,", "speculative decoding"])
    picture.arrow([(80, 204), (80, 264)], "file", (96, 240))
    picture.arrow([(279, 204), (279, 264)], "sentences", (314, 240))
    picture.arrow([(340, 204), (340, 224), (485, 224), (485, 264)], "tasks", (442, 218))
    picture.arrow([(890, 204), (890, 264)], "requests", (858, 240))
    picture.arrow([(956, 266), (956, 206)], "tokens", (980, 240))

    packing = ["prompt, answer → tokens,", "tries, masks, losses"]
    picture.box((410, 404), (190, 76), "packing", packing)
    adapters = ["LoRA, DoRA, PiSSA, Gated Memory;", "many in one batch; the warm start of a memory"]
    picture.box((640, 404), (376, 76), "adapters", adapters)
    picture.box((410, 530), (606, 66), "models", ["the frozen base: loading, identity, threads, turns, control tokens"])
    picture.arrow([(440, 342), (440, 402)], "batches", (469, 380))
    picture.arrow([(530, 342), (530, 376), (680, 376), (680, 402)], "trains", (610, 370))
    picture.arrow([(918, 342), (918, 402)], "applied by row", (966, 378))
    picture.arrow([(470, 480), (470, 528)])
    picture.arrow([(918, 480), (918, 528)])

    parts = [
        "the library: a folder a memory,",
        "written whole or not at all",
        "",
        "adapter · document · tasks",
        "training log · recall report",
        "manifest with the hash of each file",
    ]
    picture.box((24, 404), (330, 192), "memories", parts, "store")
    picture.arrow([(189, 204), (189, 402)], "finished memory", (248, 378))
    picture.arrow([(354, 506), (700, 506), (700, 482)], "stored adapter", (600, 500))
    return picture


def main() -> None:
    """Write all drawings."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")
    directory.mkdir(parents=True, exist_ok=True)
    for name, picture in [("absorb", draw_absorbing()), ("ask", draw_asking()), ("data-flow", draw_data_flow())]:
        picture.write(directory / f"{name}.svg")


if __name__ == "__main__":
    main()
