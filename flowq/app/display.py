"""How canvases, flows, runs, results and tasks show themselves: a bundle of HTML, SVG and text.

Notebooks, and pages that take what notebooks take, ask a value for `_repr_mimebundle_`. Nothing
here needs IPython, and nothing raises: what cannot be compiled is drawn as far as it goes, with its
error beside it. The pictures stand in this layer because the layer of `flowq.notebook` may not be
reached from values; a run's picture that follows the run is made in `live`.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Iterable, Mapping
from html import escape
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from flowq import errors
from flowq.core import canvas as core
from flowq.core.flow import Flow
from flowq.core.states import RunState

if TYPE_CHECKING:
    from flowq.app.run import Run
    from flowq.render import Drawing

_TEXT = 400
#: Values whose recorded form is larger are not decoded only to be shown.
_VALUE_BYTES = 64 * 1024


class Shown:
    """What shows itself in a notebook."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return bundle(self)

    def _repr_html_(self) -> str | None:
        return bundle(self, svg=False).get("text/html")


class ShownLive(Shown):
    """What goes on changing after it was shown."""

    def _ipython_display_(self) -> None:
        """Show it live; NotImplementedError asks IPython for a picture of now instead."""
        from flowq.app.live import show

        try:
            show(self)
        except Exception as exc:
            raise NotImplementedError from exc


class Picture(NamedTuple):
    """What is shown of a value."""

    text: str
    drawing: Drawing | None = None
    error: tuple[str, str] | None = None  #: kind and sentence
    note: str = ""  #: HTML below the canvas
    head: str = ""  #: HTML in the place of the canvas


def bundle(value: Any, *, svg: bool = True) -> dict[str, str]:
    """The value as MIME type -> text; at least text/plain. Never raises."""
    try:
        picture = _picture_of(value)
    except Exception as exc:
        picture = Picture(line_of(value), error=(type(exc).__name__, line_of(exc, str)))
    found = {}
    try:
        found["text/html"] = _html(picture)
        if svg and picture.drawing is not None:
            from flowq.render import render

            found["image/svg+xml"] = str(render(picture.drawing, "svg"))
    except Exception:  # a bug of the renderer must not hide the value
        found.pop("text/html", None)
    sentence = f"\n{picture.error[0]}: {picture.error[1]}" if picture.error else ""
    found["text/plain"] = picture.text + sentence
    return found


def line_of(value: Any, write: Any = repr) -> str:
    """The value in one line of text, whatever its own repr does."""
    try:
        text = " ".join(str(write(value)).split())
    except Exception as exc:  # of something inside it
        text = f"<{type(value).__name__}: its repr raised {type(exc).__name__}>"
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _picture_of(value: Any) -> Picture:
    from flowq.app.run import Run
    from flowq.app.task import Task

    if isinstance(value, core.Signature | Flow):
        return _of_canvas(value)
    if isinstance(value, Run):
        return _of_run(value)
    if isinstance(value, Task):
        return _of_task(value)
    return _of_result(value)


# -- canvases -----------------------------------------------------------------------------------


class _Blank:
    """A binder that takes everything: for structure alone."""

    by_call = False

    def spec(self, task: str, options: Mapping[str, Any], *_: Any) -> Any:
        from flowq.core.graph import Spec

        return Spec(str(task))

    def encode(self, args: Any, kwargs: Mapping[str, Any], spec: Any) -> bytes:
        return b""


def _of_canvas(value: Any) -> Picture:
    from flowq.render import drawing_of_graph

    title = value.name if isinstance(value, Flow) else ""
    text, error = line_of(value), None
    try:
        graph = _compiled(value)
    except Exception as exc:
        error = (type(exc).__name__, line_of(exc, str))
        graph = _structure(value)
    if graph is None:
        return Picture(text, None, error)
    note = "" if isinstance(value, Flow) else f"<code>{escape(text)}</code>"
    return Picture(text, drawing_of_graph(graph, title=title), error, note)


def _compiled(value: Any) -> Any:
    from flowq.app import current
    from flowq.app.submission import compile_for

    app = getattr(value, "app", None) or current.get_current()
    try:
        return compile_for(app, value)
    except errors.NotRegistered:
        app.load()  # it may be in a module that the app names and nobody has imported yet
        return compile_for(app, value)


def _structure(value: Any) -> Any:
    """The graph of a canvas that cannot be submitted, or None if it has no structure either."""
    from flowq.core.compiler import compile_canvas

    if isinstance(value, core.chord) and not value.get("kwargs", {}).get("body"):
        value = value.tasks
    try:
        return compile_canvas(value, _Blank())
    except Exception:
        return None


# -- runs and results ---------------------------------------------------------------------------


def _of_run(run: Run, text: str = "", note: str = "") -> Picture:
    from flowq.render import drawing_of

    store = run._engine.open()
    row = run.row
    drawing = drawing_of(
        run.nodes,
        store.edges(run.run_id),
        title=row.name,
        state=row.state,
        finished=row.finished_at,
        now=store.now(),
    )
    if row.state == RunState.SUCCESS and not note:
        note = _value_of_run(run, row.result_nodes)
    return Picture(text or line_of(run), drawing, None, note)


def _value_of_run(run: Run, results: Iterable[int]) -> str:
    from flowq.backends.recorded import Recorded

    recorded, shown = Recorded(run._engine.open()), []
    for idx in results:
        frame = recorded.value(run.run_id, idx)
        if frame is not None and len(frame) > _VALUE_BYTES:
            shown.append(f"({len(frame):,} bytes)")
        else:
            shown.append("None" if frame is None else preview(run._decode(frame)))
    return _result_note(shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]")


def _result_note(text: str) -> str:
    return f"result <code>{escape(text)}</code>"


def _of_result(result: Any) -> Picture:
    text = line_of(result)
    run = getattr(result, "run", None)
    if run is not None:
        return _of_run(run, text)
    members = getattr(result, "results", None)
    if members is None:
        if not result.exists():
            return Picture(text, error=("UnknownId", f"nobody knows a task of the id {result.id}"))
        rows = [_row(0, "", result)]
    else:
        rows = [_row(i, f"g{i}", member) for i, member in enumerate(members)]
    from flowq.render import drawing_of

    note = _result_note(preview(result.result)) if rows and _succeeded(result) else ""
    return Picture(text, drawing_of(rows, []), None, note)


def _succeeded(result: Any) -> bool:
    return getattr(result, "state", "") == "SUCCESS"


def _row(idx: int, path: str, result: Any) -> Any:
    """A result as a row of nodes."""
    name = str(getattr(result, "name", None) or result.id)
    error = line_of(result.result) if result.state == "FAILURE" else None
    return SimpleNamespace(
        idx=idx,
        path=path,
        name=name.rpartition(".")[2] + (f"[{idx}]" if path else ""),
        task=name,
        state=result.state,
        error=error,
    )


def preview(value: Any) -> str:
    """A short repr of any value."""
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 8
    short.maxstring = short.maxother = 160
    return line_of(value, short.repr)


# -- tasks --------------------------------------------------------------------------------------


def _of_task(task: Any) -> Picture:
    from flowq.render import drawing_of

    name = str(task.name)
    row = SimpleNamespace(idx=0, name=name.rpartition(".")[2], task=name)
    head = (
        f'<div class="fq-head"><h2>{escape(_head(task))}</h2>'
        f'<span class="fq-soft">task {escape(name)}</span></div>'
    )
    drawing = drawing_of([row], [], title=_head(task))
    return Picture(line_of(task), drawing, None, _about(task), head)


def _head(task: Any) -> str:
    """The task as it is called: its short name and parameters."""
    name = str(task.name).rpartition(".")[2]
    try:
        return f"{name}{inspect.signature(task.run)}"
    except (TypeError, ValueError):
        return f"{name}(...)"


def _about(task: Any) -> str:
    """HTML of its options, and of the first line of its docstring."""
    first = inspect.cleandoc(task.__doc__ or "").partition("\n")[0]
    definition = getattr(task, "portable_definition", None)
    given = definition[1] if definition else {}
    options = [
        f"{key}={_option(option)}"
        for key, option in given.items()
        if key not in ("name", "base") and option not in (None, False)
    ]
    parts = [escape(first), ", ".join(f"<code>{escape(each)}</code>" for each in options)]
    return "<br>".join(part for part in parts if part)


def _option(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_option, value))}{',' if len(value) == 1 else ''})"
    return value.__name__ if isinstance(value, type) else preview(value)


# -- writing ------------------------------------------------------------------------------------


def _html(picture: Picture) -> str:
    from flowq.render import fragment

    more = []
    if picture.head:
        more.append(picture.head)
    elif picture.drawing is None:
        more.append(f"<code>{escape(picture.text)}</code>")
    if picture.note:
        more.append(f'<div class="fq-note">{picture.note}</div>')
    if picture.error:
        kind, sentence = picture.error
        more.append(
            f'<ul class="fq-errors"><li><b>✗ {escape(kind)}</b>'
            f"<code>{escape(sentence)}</code></li></ul>"
        )
    return fragment(None if picture.head else picture.drawing, more="".join(more))
