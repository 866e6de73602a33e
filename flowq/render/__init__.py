"""Pictures of a graph or run: values in, text out.

drawing = drawing_of(store.nodes(run), store.edges(run), title="etl", state=state)
render(collapse(drawing), "svg")
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from flowq.errors import RenderError
from flowq.render import engine
from flowq.render.fold import collapse
from flowq.render.model import Drawing, drawing_of, drawing_of_graph
from flowq.render.tree import longest_line

__all__ = [
    "FORMATS",
    "Drawing",
    "collapse",
    "drawing_of",
    "drawing_of_graph",
    "format_of",
    "fragment",
    "render",
]

#: What `render` can write, and the file names that ask for it.
FORMATS: dict[str, tuple[str, ...]] = {
    "text": (".txt",),
    "svg": (".svg",),
    "html": (".html", ".htm"),
    "dot": (".dot", ".gv"),
    "mermaid": (".mmd", ".mermaid"),
    "json": (".json",),
    "png": (".png",),
}

#: A drawing of more boxes is collapsed first: the picture would be unreadable or too slow.
_MOST = {"svg": 600, "html": 1000, "png": 600, "mermaid": 400}
#: Members of one chain or flow that HTML draws in full.
_LONGEST = 200


def render(drawing: Drawing, format: str, *, ascii: bool = False, width: int = 100) -> str | bytes:
    """Write a drawing in a format of `FORMATS`.

    Args:
        drawing: What to draw. Pictures of very many boxes are collapsed here too.
        format: One of `FORMATS`; png gives bytes, all others text.
        ascii: Text (and DOT labels) without characters beyond ASCII.
        width: Columns of the text format.

    Raises:
        RenderError: The format is unknown, or png was asked for and no Graphviz is there.
    """
    if format not in FORMATS:
        raise RenderError(f"unknown picture format {format!r}; use one of {', '.join(FORMATS)}")
    drawing = _fitted(drawing, format)
    match format:
        case "text":
            from flowq.render.text import text

            return text(drawing, ascii=ascii, width=width)
        case "svg":
            from flowq.render.svg import svg

            return svg(drawing)
        case "html":
            from flowq.render.html import page

            return page(drawing)
        case "mermaid":
            from flowq.render.mermaid import mermaid

            return mermaid(drawing)
        case "json":
            return msgspec.json.encode(drawing).decode()
        case _:
            from flowq.render.dot import dot

            return dot(drawing, ascii=ascii) if format == "dot" else _png(drawing)


def fragment(drawing: Drawing | None, *, more: str = "") -> str:
    """The HTML canvas as one `div` with its style, for a notebook or another page.

    Args:
        drawing: What to draw; None leaves only the frame around `more`.
        more: HTML that goes below the canvas.
    """
    from flowq.render.html import fragment as div

    return div(drawing and _fitted(drawing, "html"), more=more)


def format_of(path: str | Path) -> str:
    """The format that a file name asks for by its ending.

    Raises:
        RenderError: No format has this ending.
    """
    ending = Path(path).suffix.lower()
    for name, endings in FORMATS.items():
        if ending in endings:
            return name
    known = ", ".join(ending for endings in FORMATS.values() for ending in endings)
    raise RenderError(f"no picture format for {Path(path).name!r}; use a name ending in {known}")


def _fitted(drawing: Drawing, format: str) -> Drawing:
    most = _MOST.get(format)
    if most is None:
        return drawing
    if len(drawing.nodes) > most or (format == "html" and longest_line(drawing.root) > _LONGEST):
        return collapse(drawing)
    return drawing


def _png(drawing: Drawing) -> bytes:
    from flowq.render.dot import dot

    program = engine.find()
    if program is None:
        raise RenderError(
            "png needs Graphviz: install the dot program, or pip install flowq[graph], "
            "or use .svg or .html"
        )
    # the font inside graphviz-pure has no state glyphs
    picture = engine.draw(dot(drawing, ascii="pure" in Path(program).name), "png", program)
    if picture is None:
        raise RenderError(f"{program} drew nothing; use .svg or .html, or .dot to look into it")
    return picture
