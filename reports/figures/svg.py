"""A figure as SVG: the same bytes for the same figure, with a text alternative."""

from __future__ import annotations

import io
import re
import warnings
from xml.etree import ElementTree

from matplotlib.figure import Figure

from reports.csv_text import shorten
from reports.figures.style import THEME, styled
from wise.measures.text import visible

__all__ = ["inline", "to_svg"]

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", _XLINK)
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_MOST_TEXT = 600  # characters
_COLOR = re.compile("|".join(THEME))


def to_svg(figure: Figure, *, name: str, title: str, description: str) -> str:
    """The figure with `title` and `description` as its text alternative; ids start with `name`."""
    stream = io.StringIO()
    with styled(), warnings.catch_warnings():
        # The viewer's fonts draw the text: a letter missing from this machine's does not matter.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(stream.getvalue())
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    for element in root.iter():
        _rename(element, name)
    for index, (tag, text) in enumerate((("title", title), ("desc", description))):
        alternative = ElementTree.Element(f"{{{_SVG}}}{tag}", id=f"{name}-{tag}")
        alternative.text = visible(shorten(text, _MOST_TEXT))
        root.insert(index, alternative)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _rename(element: ElementTree.Element, name: str) -> None:
    """Make ids unique to this figure, as a page holds several."""
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))


def inline(svg: str) -> str:
    """The SVG for a page: its colours follow the page's theme through the variables --c-HEX."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        for key in ("style", "fill", "stroke"):
            if key in element.attrib:
                element.set(key, _COLOR.sub(_variable, element.attrib[key]))
    return ElementTree.tostring(root, encoding="unicode")


def _variable(match: re.Match[str]) -> str:
    return f"var(--c-{match[0][1:]}, {match[0]})"
