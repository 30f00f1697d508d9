"""HTML that cannot forget to escape: text is escaped when it enters a tag, and only what a tag made passes as it is."""
import html
import unicodedata
from collections.abc import Iterable
from typing import Any

_RIGHT_TO_LEFT = {"R", "AL", "AN", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "FSI", "PDF", "PDI"}      # classes of Unicode's bidirectional algorithm
VOID = {"img", "input", "br", "meta", "link"}     # of HTML; SVG's elements are closed


class Html(str):
    """Markup. Any other string is text."""


def text(value: Any) -> Html:
    """`value` as markup: escaped unless it is `Html`."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def isolated(name: str) -> str:
    """A name of the user, between Unicode's isolating marks where it runs right to left, so that the text around it keeps its order."""
    return f"\u2068{name}\u2069" if any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in name) else name


def middle(name: str, most: int = 24) -> str:
    """A name of at most so many characters: start and end stay, since names that differ may do so at either."""
    return name if len(name) <= most else f"{name[:most // 2]}…{name[-((most - 1) // 2):]}"


def join(parts: Iterable[Any], between: str = "") -> Html:
    """The parts one after another; None and "" are left out. `between` is text."""
    return Html(str(text(between)).join(text(part) for part in parts if part is not None and part != ""))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """`<name attributes>children</name>`; children are text unless they are `Html`, and None is left out.

    An attribute named `class_` or `data_x` becomes class or data-x; one that is None or False is left out, True has no value.
    """
    given = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            given.append(f" {key}")
        elif value is not None and value is not False:
            given.append(f' {key}="{html.escape(str(value))}"')
    opening = f"<{name}{''.join(given)}>"
    return Html(opening if name in VOID else f"{opening}{join(children)}</{name}>")
