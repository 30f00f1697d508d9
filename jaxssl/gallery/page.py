"""Answers as one page that needs no network: each query with its pictures and scores. Names are text, whatever they hold."""
import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import jaxssl
from jaxssl.report import pictures
from jaxssl.report.markup import Html, isolated, join, middle, tag

SIDE = 112              # of a picture, in pixels
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; } body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
section { border-top: 1px solid #8884; padding: 1rem 0; } .row { display: flex; flex-wrap: wrap; gap: .75rem; } figure { margin: 0; width: 112px; }
figure img { display: block; width: 112px; height: 112px; border-radius: 4px; background: #8882; } figcaption { font-size: 12px; overflow-wrap: anywhere; }
.query img { outline: 3px solid #27c; } .score { font-variant-numeric: tabular-nums; }
"""


def render(document: dict, picture: Callable[[str, str], tuple[np.ndarray, Sequence[int]] | None]) -> str:
    """document: as `search.run` returns it. picture("query" or "gallery", name) -> (canvas uint8 [S, S, 3], (h, w)) of an image, None where it cannot be read any more."""
    title = f"{len(document['queries']):,} quer{'y' if len(document['queries']) == 1 else 'ies'} among {document['images']:,} images"
    body = [tag("h1", title), tag("p", f"{document['gallery']}, by {document['encoder']} ({document['layer']}). Scores are cosines; 1 is the same.")]
    for each in document["queries"]:
        results = [figure(picture("gallery", own["name"]), own["name"], f"{own['score']:.4f}") for own in each["results"]]
        body.append(tag("section", tag("h2", isolated(middle(each["query"], 60)), title=each["query"]),
                        tag("div", tag("div", figure(picture("query", each["query"]), each["query"], "query"), class_="query"), *results, class_="row")))
    return whole("search", body)


def whole(title: str, body: Sequence[Any], style: str = "") -> str:
    """A page that needs no script and no network: its parts under a title, by the house's style and `style` after it."""
    style = _STYLE + style
    allowed = f"default-src 'none'; img-src data:; style-src 'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'; base-uri 'none'; form-action 'none'"
    head = join([tag("meta", charset="utf-8"), tag("meta", http_equiv="Content-Security-Policy", content=allowed), tag("meta", name="viewport", content="width=device-width"),
                 tag("meta", name="referrer", content="no-referrer"), tag("title", f"{title} · jaxssl"), tag("link", rel="icon", href="data:,"), tag("style", Html(style))])
    foot = tag("footer", tag("p", f"Written by jaxssl {jaxssl.__version__}. This file needs no network."))
    return "<!doctype html>\n" + tag("html", tag("head", head), tag("body", *body, foot), lang="en")


def figure(found: Any, name: str, score: str) -> Html:
    """A picture (canvas, (h, w)), or None where it is gone, over a score and its name."""
    image = tag("img", src=pictures.address(pictures.square(*found, SIDE)), alt="", loading="lazy") if found is not None else tag("p", "not readable any more")
    return tag("figure", image, tag("figcaption", tag("span", score, class_="score"), tag("br"), isolated(middle(name, 48)), title=name))
