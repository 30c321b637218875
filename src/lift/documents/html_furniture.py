"""Which elements of a web page are furniture: menus, banners, share bars and teasers, and not its reading matter.

What an element is called (its tag, role or class) proposes; how much of the page's prose it holds decides, since whole
pages stand in a form, and a caution in an aside.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

MENU, HEADER, FOOTER, ASIDE, FORM, DIALOG = "menu", "page header", "page footer", "aside", "form", "dialog"
CONSENT, SHARE, TEASERS = "consent banner", "share bar", "list of teasers"
_TAGS = {
    "nav": MENU, "menu": MENU, "aside": ASIDE, "footer": FOOTER, "header": HEADER, "form": FORM, "dialog": DIALOG
}  # fmt: skip
_ROLES = {
    "navigation": MENU, "doc-toc": MENU, "banner": HEADER, "contentinfo": FOOTER, "search": FORM,
    "complementary": ASIDE, "dialog": DIALOG, "alertdialog": DIALOG
}  # fmt: skip
_NEVER = frozenset(
    ["html", "body", "main", "article", "table", "tbody", "tr", "td", "th", *(f"h{n}" for n in range(1, 7))]
)
_MENU_CLASS = re.compile(
    r"breadcrumbs?|pagination|pager|navbox|navbar|toc|skip-?(?:link|nav|to-content)", re.IGNORECASE
)
_SIDEBAR_CLASS = re.compile(
    r"(?:(?:left|right|site|page|primary|secondary|widget)[-_]?)?side[-_]?bar(?:[-_]?(?:left|right|primary|secondary))?|"
    r"sidenav",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MAX_CLASS_CHARS = 400
_CONSENT_ABOUT = frozenset(["cookie", "cookies", "gdpr", "ccpa", "consent", "privacy", "onetrust", "cookiebot"])
_CONSENT_FORMS = frozenset(
    {
        "banner", "bar", "notice", "popup", "modal", "dialog", "wall", "overlay", "message", "manager", "sdk", "law",
        "prompt", "consent", "alert"
    }
)  # fmt: skip
_SHARE_ABOUT = frozenset(["share", "sharing", "social", "addtoany", "sharethis"])
_SHARE_FORMS = frozenset(
    ["buttons", "button", "bar", "links", "icons", "tools", "widget", "list", "media", "share", "sharing"]
)
_TEASER_WORDS = frozenset(
    {
        "related", "recommended", "recommendations", "recirculation", "teasers", "promo", "promos", "newsletter",
        "advert", "adverts", "advertisement", "ads", "sponsored", "taboola", "outbrain"
    }
)  # fmt: skip
_ADMONITION = frozenset(
    {
        "admonition", "callout", "note", "tip", "hint", "important", "warning", "caution", "danger", "attention",
        "info", "example", "remember", "notice"
    }
)  # fmt: skip
_PANEL_WORDS = frozenset(
    ["accordion", "collapse", "collapsible", "panel", "answer", "faq", "tabpanel", "toggle", "pane"]
)
_OPENERS = frozenset([*(f"h{n}" for n in range(1, 7)), "button", "summary", "dt", "label"])
_NO_PROSE = frozenset(
    ["a", "button", "select", "textarea", "label", "option", "script", "style", "noscript", "template"]
)
_NO_TEXT = frozenset(["script", "style", "noscript", "template", "head", "datalist"])
_NO_DATA_TABLE = frozenset(["ul", "ol", "pre", *(f"h{n}" for n in range(1, 7))])
_SURVEYED_TAGS = frozenset(["sup", "table", "del", "s", "strike", "button", "select", "textarea", *_TAGS])


def element_name(element: Any) -> str:
    """The tag in lower case without its namespace, "" for what is no element."""
    tag = element.tag
    return tag.rpartition("}")[2].lower() if isinstance(tag, str) else ""


def _words_of(element: Any, *attributes: str) -> set[str]:
    text = " ".join((element.get(attribute) or "")[:_MAX_CLASS_CHARS] for attribute in attributes)
    return {word.lower() for word in _WORDS.findall(text)}


def furniture_kind(element: Any, name: str) -> str | None:
    """The kind of furniture that tag, role or class call the element, or None."""
    role = element.get("role") or ""
    has_class = element.get("class") and name not in _NEVER
    if (has_class or (element.get("id") and name not in _NEVER)) and _is_consent(element):
        return CONSENT
    if kind := _TAGS.get(name) or _ROLES.get(role):
        return kind
    if not has_class:
        return None
    classes = element.get("class")[:_MAX_CLASS_CHARS].split()
    if any(_MENU_CLASS.fullmatch(each) for each in classes):
        return MENU
    if any(_SIDEBAR_CLASS.fullmatch(each) for each in classes):
        return ASIDE
    for each in classes:
        words = {word.lower() for word in _WORDS.findall(each)}
        if about := words & _SHARE_ABOUT:
            if len(about) > 1 or words & _SHARE_FORMS - about:
                return SHARE
        elif words & _TEASER_WORDS:
            return TEASERS
    return None


def _is_consent(element: Any) -> bool:
    words = _words_of(element, "class", "id")
    about = words & _CONSENT_ABOUT
    return bool(about) and bool(words & _CONSENT_FORMS - (about if len(about) == 1 else set()))


@dataclass(frozen=True, slots=True)
class Inside:
    """Counts of an element: characters of text, of prose (no link or control), elements that tell its purpose."""

    text_chars: int
    prose_chars: int
    has_link: bool
    has_first_heading: bool
    has_formula: bool
    is_data_table: bool


_EMPTY = Inside(0, 0, has_link=False, has_first_heading=False, has_formula=False, is_data_table=False)


class PageSurvey:
    """One pass over a page before it is read: what each of its elements that may be left out holds."""

    def __init__(self, root: Any) -> None:
        self._found: dict[Any, Inside] = {}
        self._controlled: set[str] = set()
        self._survey(root)

    def of(self, element: Any) -> Inside:
        """Counts of the element's content; nothing for one whose kind is never left out."""
        return self._found.get(element, _EMPTY)

    def is_controlled(self, element: Any) -> bool:
        """Whether a button or link of the page opens the element."""
        return (element.get("id") or "") in self._controlled

    def is_matter(self, element: Any, kind: str, in_article: bool) -> bool:
        """Whether furniture of that kind is the page's reading matter all the same."""
        inside = self.of(element)
        if inside.has_first_heading and kind not in {DIALOG, FOOTER}:
            return True
        if kind == CONSENT:
            return False
        if 2 * inside.prose_chars > self._prose_chars:
            return True
        if kind != ASIDE:
            return False
        words = _words_of(element, "class", "aria-label", "role")
        if words & _ADMONITION:
            return True
        links_chars = inside.text_chars - inside.prose_chars
        return in_article and not words & _TEASER_WORDS and inside.prose_chars > 2 * links_chars

    def _survey(self, root: Any) -> None:
        from lxml import etree

        counts = {"a": 0, "h1": 0, "math": 0, "table": 0, "layout": 0}
        text_chars, prose_chars, silent, no_prose = 0, 0, 0, 0
        opened: list[tuple[Any, tuple[int, ...]]] = []
        for event, element in etree.iterwalk(root, events=("start", "end")):
            name = element_name(element)
            step = 1 if event == "start" else -1
            if event == "start":
                if self._is_surveyed(element, name):
                    opened.append((element, (text_chars, prose_chars, *counts.values())))
                if name in counts:
                    counts[name] += 1
                if name in _NO_DATA_TABLE:
                    counts["layout"] += 1
                for attribute in ("aria-controls", "data-target", "data-bs-target"):
                    if target := element.get(attribute):
                        self._controlled.update(each.lstrip("#") for each in target[:_MAX_CLASS_CHARS].split())
            elif opened and opened[-1][0] is element:
                begun = opened.pop()[1]
                held = [
                    now - before for now, before in zip((text_chars, prose_chars, *counts.values()), begun, strict=True)
                ]
                self._found[element] = Inside(
                    held[0], held[1], held[2] > 0, held[3] > 0, held[4] > 0, is_data_table=held[5] <= 1 and not held[6]
                )
            silent += step * (name in _NO_TEXT)
            no_prose += step * (name in _NO_PROSE)
            text = element.text if event == "start" else element.tail
            if text and not silent and (chars := len(text.strip())):
                text_chars += chars
                prose_chars += 0 if no_prose else chars
        self._prose_chars = prose_chars

    def _is_surveyed(self, element: Any, name: str) -> bool:
        attributes = element.attrib
        return name in _SURVEYED_TAGS or any(each in attributes for each in ("class", "id", "role", "hidden", "style"))


def is_collapsed_panel(element: Any, survey: PageSurvey) -> bool:
    """Whether a hidden element is the folded part of an accordion or a tab, which a reader would open."""
    if element.get("hidden") == "until-found" or element.get("role") in {"region", "tabpanel"}:
        return True
    if survey.is_controlled(element) or _words_of(element, "class") & _PANEL_WORDS:
        return True
    previous = element.getprevious()
    return previous is not None and element_name(previous) in _OPENERS
