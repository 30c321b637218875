"""Pages whose text is a picture -> words, by optical character recognition (the extra `ocr`: RapidOCR).

The page is drawn and read in this process, on one thread, so that the limits of the process hold for it too.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from lift.documents.pdf.words import PageWords, PrintedWord
from lift.errors import DocumentError

if TYPE_CHECKING:
    import pypdfium2

_DOTS_A_POINT = 200 / 72
_MAX_SIDE_DOTS = 3_000
_MIN_CONFIDENCE = 0.5
# How much of a found line's height the type size is.
_SIZE_SHARE = 0.75


class TextRecognition:
    """The models of character recognition, loaded once a file."""

    def __init__(self, name: str) -> None:
        try:
            import cv2
            from rapidocr import RapidOCR
        except ImportError as error:
            raise DocumentError(
                f"{name}: expected the extra ocr for --ocr, got an environment without it; "
                "install it by pip install 'lift-memory[ocr]'"
            ) from error
        cv2.setNumThreads(1)
        logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
        self._engine: Any = RapidOCR(
            params={
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Global.log_level": "critical",
            }
        )

    def words_of_page(self, page: pypdfium2.PdfPage, number: int) -> PageWords:
        """The words that are drawn on a page, in points from its lower left corner."""
        width, height = page.get_size()
        scale = min(_DOTS_A_POINT, _MAX_SIDE_DOTS / max(width, height, 1.0))
        bitmap = page.render(scale=scale, draw_annots=True)
        try:
            found = self._engine(bitmap.to_numpy(), return_word_box=True)
        finally:
            bitmap.close()
        words: list[PrintedWord] = []
        for line, confidence in zip(found.word_results or (), found.scores or (), strict=False):
            if confidence < _MIN_CONFIDENCE:
                continue
            for text, _, box in line:
                xs, ys = [x / scale for x, _ in box], [height - y / scale for _, y in box]
                size = _SIZE_SHARE * (max(ys) - min(ys))
                words += [
                    PrintedWord(part, min(xs), max(xs), min(ys), max(size, 1.0)) for part in [text.strip()] if part
                ]
        return PageWords(number, _with_even_sizes(words))


def _with_even_sizes(words: list[PrintedWord]) -> list[PrintedWord]:
    """The words, those of nearly the same size given one: boxes around drawn letters differ by a dot or two."""
    from dataclasses import replace
    from statistics import median

    if not words:
        return words
    usual = median(word.size for word in words)
    return [replace(word, size=usual) if abs(word.size - usual) < 0.25 * usual else word for word in words]
