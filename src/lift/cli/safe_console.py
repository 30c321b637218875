"""A console of rich's that shows text and styles, and of control characters only rich's own."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lift.cli.terminal_text import printable_text


class SafeConsole(Console):
    """As rich's; see terminal_text.py. rich itself lets escape sequences through."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces that are shown."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable_text(segment.text), segment.style)
