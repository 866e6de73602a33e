"""``flowq graph``: the picture of a pipeline, or of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flowq.cli import options
from flowq.cli.output import Output, is_ascii

#: Other names of formats: the endings of their files.
_ALIASES = {"txt": "text", "htm": "html", "gv": "dot", "mmd": "mermaid"}


def graph(
    what: Annotated[str, typer.Argument(metavar="TARGET|RUN", help="A pipeline, or a run.")],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="File: .svg .html .txt .dot .mmd .png or .json."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("-f", "--format", help="text, svg, html, dot, mermaid, json or png."),
    ] = None,
    arg: options.Arguments = None,
    most: Annotated[
        str, typer.Option("--max-nodes", metavar="N", help="Fold groups above so many boxes.")
    ] = "200",
    store: options.StoreUrl = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Draw a pipeline before it runs, or a run with its states; DOT when piped."""
    from flowq.render import FORMATS, collapse, format_of, render

    out = Output(quiet=quiet)
    format = _ALIASES.get(format, format) if format else format
    if json:
        format = format or "json"
    if format is not None and format not in FORMATS:
        raise typer.BadParameter(
            f"{format!r} is none of {', '.join(FORMATS)}", param_hint="--format"
        )
    if format is None:
        usual = "text" if sys.stdout is not None and sys.stdout.isatty() else "dot"
        format = format_of(output) if output is not None else usual
    drawing = collapse(
        _drawing(what, arg or [], store), options.whole(most, "--max-nodes", 2) or 200
    )
    ascii = format == "text" and output is None and is_ascii(sys.stdout)
    width = 100 if output is not None else _columns()
    made = render(drawing, format, ascii=ascii, width=width)
    if output is not None:
        _write(Path(output), made)
        out.say(f"wrote {output}")
    elif isinstance(made, bytes):
        out.binary(made)
    else:
        out.data(made.rstrip("\n"))
    return 0


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _drawing(what: str, arguments: list[str], store: str | None) -> Any:
    from flowq.app.target import looks_like_target
    from flowq.cli.opening import open_store
    from flowq.cli.telling import drawing

    if looks_like_target(what) and not what.startswith("@last"):
        return _before(what, arguments)
    opened = open_store(store)
    return drawing(opened, opened.find_run(what))


def _before(target: str, arguments: list[str]) -> Any:
    from flowq.app.submission import compile_for, default_name
    from flowq.app.target import load
    from flowq.render import drawing_of_graph

    loaded = load(target)
    canvas = loaded.build(arguments)
    app = loaded.app(canvas)
    compiled = compile_for(app, canvas)
    return drawing_of_graph(compiled, title=default_name(app, canvas, compiled))


def _write(path: Path, made: str | bytes) -> None:
    from flowq.errors import RenderError

    try:
        if isinstance(made, bytes):
            path.write_bytes(made)
        else:
            path.write_text(made, encoding="utf-8")
    except OSError as exc:
        raise RenderError(f"cannot write {path}: {exc.strerror}; name another file") from exc
