"""Write the pages of docs/ that are made from the code.

python docs/generate.py           write them
python docs/generate.py --check   write nothing; exit 1 if one is stale
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
SOURCE = DOCS.parent / "flowq"
MADE = "% Made by docs/generate.py: do not edit.\n\n"

# -- states -------------------------------------------------------------------------------------

STATES = """\
# States

A node is in one of nine states. Which event leads from which state to which is one table in the code,
`flowq.core.states.TRANSITIONS`; what is not in it cannot happen. This page is printed from it.

![Node states and the events between them](images/states.svg)

Rows are events, columns the state before; the cell says the state after.

{table}
{meanings}
An event about a node that has ended, or about an attempt that is over, is discarded and recorded as such.

SUCCESS, FAILURE, SKIPPED and REVOKED are final. Only a person's `flowq retry` reopens nodes that did not succeed
(`reopened`), all of a run at once.

Celery's API shows READY and QUEUED as PENDING, and SKIPPED as the FAILURE or REVOKED that caused it.

## States of a run

{runs}
## As Mermaid

```text
{mermaid}```
"""  # noqa: E501

#: Where each state stands in the picture (x, y of its middle).
PLACES = {
    "PENDING": (80, 150),
    "READY": (290, 150),
    "QUEUED": (510, 150),
    "STARTED": (730, 150),
    "RETRY": (400, 45),
    "REVOKED": (80, 330),
    "SKIPPED": (290, 330),
    "FAILURE": (510, 330),
    "SUCCESS": (730, 330),
}
HALF_WIDTH, HALF_HEIGHT = 52, 18
#: Left out of the picture, which says them in words.
EVERYWHERE = ("revoked", "reopened")


def states_page() -> str:
    """The page about states."""
    from flowq.core.states import Event, RunState, State
    from flowq.render import states_diagram

    meanings = ["| state | meaning |", "|---|---|"]
    meanings += [f"| `{name}` | {text} |" for name, text in members(State)]
    meanings += ["", "| event | what happened |", "|---|---|"]
    meanings += [f"| `{name.lower()}` | {text} |" for name, text in members(Event)]
    runs = ["| state | meaning |", "|---|---|"]
    runs += [f"| `{name}` | {text} |" for name, text in members(RunState)]
    return STATES.format(
        table=states_diagram.markdown(),
        meanings="\n".join(meanings) + "\n",
        runs="\n".join(runs) + "\n",
        mermaid=states_diagram.mermaid(),
    )


def members(enum: Any) -> Iterator[tuple[str, str]]:
    """(name, comment) of an enum's members, from its source."""
    comment: list[str] = []
    for line in inspect.getsource(enum).splitlines():
        text = line.strip()
        if text.startswith("#:"):
            comment.append(text[2:].strip())
        elif found := re.match(r"([A-Z]+) = \S+(?:\s+#: (.*))?$", text):
            yield found[1], " ".join(comment) or (found[2] or "")
            comment = []


def states_svg() -> str:
    """The picture of the same table."""
    from flowq.core.states import TERMINAL, TRANSITIONS, State
    from flowq.render import palette

    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        if event not in EVERYWHERE:
            arrows.setdefault((before.value, after.value), []).append(event.value)
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 400" '
        'font-family="Helvetica, Arial, sans-serif" role="img">',
        "<title>Node states</title>",
        '<rect width="820" height="400" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#8b95a3"/></marker>'
        "</defs>",
    ]
    for (before, after), events in arrows.items():
        lines += arrow(before, after, events, (after, before) in arrows)
    for state in State:
        look, (x, y) = palette.look(state), PLACES[state.value]
        lines.append(
            f'<rect x="{x - HALF_WIDTH}" y="{y - HALF_HEIGHT}" width="{2 * HALF_WIDTH}" '
            f'height="{2 * HALF_HEIGHT}" rx="8" fill="{look.fill}" stroke="{look.line}" '
            f'stroke-width="{3 if state in TERMINAL else 1.5}"/>'
            f'<text x="{x}" y="{y + 4}" font-size="12" font-weight="600" text-anchor="middle" '
            f'fill="{look.ink}">{state.value}</text>'
        )
    words = "REVOKED: from any state that is not final, by request. "
    words += "FAILURE, SKIPPED, REVOKED: back to PENDING when a person retries the run."
    lines.append(f'<text x="28" y="386" font-size="11" fill="#5b6472">{words}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def arrow(before: str, after: str, events: list[str], both: bool) -> list[str]:
    """One arrow of the picture with its events; bent if one goes back, or over another box."""
    (x1, y1), (x2, y2) = PLACES[before], PLACES[after]
    dx, dy = x2 - x1, y2 - y1
    length = (dx * dx + dy * dy) ** 0.5
    bend = 24.0 if both else 0.0
    if dy == 0 and abs(dx) > 250:
        bend = -0.2 * abs(dx) if dx > 0 else 0.19 * abs(dx)
    nx, ny = -dy / length * bend, dx / length * bend
    mx, my = (x1 + x2) / 2 + nx, (y1 + y2) / 2 + ny
    start, end = border(x1, y1, mx, my), border(x2, y2, mx, my)
    at = (0.24 if before == "STARTED" else 0.36) if dy > 100 else 0.5
    lx, ly = x1 + (x2 - x1) * at + nx, y1 + (y2 - y1) * at + ny
    return [
        f'<path d="M{start[0]:.0f},{start[1]:.0f} Q{mx + nx:.0f},{my + ny:.0f} '
        f'{end[0]:.0f},{end[1]:.0f}" fill="none" stroke="#8b95a3" stroke-width="1.2" '
        'marker-end="url(#tip)"/>',
        f'<text x="{lx:.0f}" y="{ly - 3:.0f}" font-size="9.5" text-anchor="middle" '
        'stroke="#ffffff" stroke-width="3" paint-order="stroke" fill="#5b6472">'
        f"{', '.join(events)}</text>",
    ]


def border(x: float, y: float, towards_x: float, towards_y: float) -> tuple[float, float]:
    """Where a line from a box's middle leaves the box."""
    dx, dy = towards_x - x, towards_y - y
    scale = min(
        HALF_WIDTH / abs(dx) if dx else float("inf"),
        (HALF_HEIGHT + 2) / abs(dy) if dy else float("inf"),
    )
    return x + dx * scale, y + dy * scale


# -- settings -----------------------------------------------------------------------------------

SETTINGS = """\
A setting is looked for in this order, and the first that is found counts: arguments of `Flowq(...)`, assignments to `app.conf` and
options of the command line; `app.config_from_object`; the environment variable; `flowq.toml`; `[tool.flowq]` in the nearest
`pyproject.toml`; the default. `flowq config show` prints the values in force and where each comes from. An unknown name is
an error that suggests the nearest known one.

"""  # noqa: E501
UNREAD = """\

## Known, but read by nothing in this version

Giving one is no error, and does nothing.

"""


def settings_page() -> str:
    """The settings that work, then those that do not yet, then those that never will."""
    from flowq.config.reference import settings_page as page

    code = "\n".join(
        path.read_text() for path in sorted(SOURCE.rglob("*.py")) if "config" not in path.parts
    )
    working, mark, accepted = page().partition("\n## Accepted")
    title, _, rest = working.partition("\n\n")
    head, rows = rest.splitlines()[:2], rest.splitlines()[2:]
    read = [row for row in rows if re.search(rf"\b{name_in(row)}\b", code) or not name_in(row)]
    unread = [row for row in rows if row not in read]
    return (
        f"{title}\n\n{SETTINGS}"
        + "\n".join([*head, *read])
        + (f"\n{UNREAD}" + "\n".join([*head, *unread]) if unread else "")
        + f"\n{mark}{accepted}"
    )


def name_in(row: str) -> str:
    """The setting that a row of the table is about."""
    found = re.match(r"\| `(\w+)` ", row)
    return found[1] if found else ""


# -- the command line ---------------------------------------------------------------------------

CLI = """\
# Command line

`RUN` is a run's id, a unique prefix of it, `@last`, `@last:NAME` or a name. `TARGET` is `file.py`, `file.py:name` or
`pkg.mod:name`. Data goes to stdout, everything else to stderr. Durations are written `30s`, `5m`, `2h`, `7d`. Exit codes are on
[a page of their own](exit-codes.md).

"""  # noqa: E501


def cli_page() -> str:
    """All commands with their arguments and options."""
    from flowq.cli.commands import build

    parts = [CLI]
    for name, command in commands(build(), "flowq"):
        parts.append(f"## {name}\n\n```text\n{usage(name, command)}\n```\n\n")
        parts.append(f"{paragraphs(command.help)}\n\n")
        rows = [row for row in map(parameter, command.params) if row]
        if rows:
            parts.append("| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n\n")
    return "".join(parts).rstrip() + "\n"


def commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of each command that is shown."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def usage(name: str, command: Any) -> str:
    """The line that says how it is called."""
    words = []
    for param in command.params:
        if param.param_type_name == "argument":
            word = param.metavar or param.name.upper()
            words.append(word if param.required or word.startswith("[") else f"[{word}]")
    return " ".join([name, *words, "[OPTIONS]"])


def paragraphs(text: str | None) -> str:
    """Help text as Markdown: what stands indented is shown as it is."""
    return inspect.cleandoc((text or "").replace("\b\n", "").partition("\f")[0]).strip()


def parameter(param: Any) -> str:
    """One row of a command's table; empty for those that are hidden."""
    if getattr(param, "hidden", False) or "--help" in param.opts:
        return ""
    text = (getattr(param, "help", None) or "").strip().replace("|", "\\|")
    if param.param_type_name == "argument":
        name = (param.metavar or param.name.upper()).strip("[]").replace("|", "\\|")
        return f"| `{name}` | {text} |" if text else ""
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    if not (param.is_flag or getattr(param, "count", False)):
        names += f" `{param.metavar or 'TEXT'}`"
    if param.envvar:
        text += f" Variable: `{param.envvar}`."
    if isinstance(param.default, str | int | float) and not param.is_flag:
        text += f" Default: `{param.default}`."
    return f"| {names} | {text} |"


# -- exit codes and the API ---------------------------------------------------------------------

EXIT = """\
# Exit codes

| code | meaning |
|---|---|
| 0 | done; for `run`, `watch`, `resume`, `retry`, `rerun` and `result`: the run ended in SUCCESS |
| 1 | the run ended in FAILURE |
| 2 | wrong usage of the command line |
| 3 | the run was cancelled |
| 4 | no such run or node |
| 5 | `--timeout` passed; the run goes on, or can be resumed |
| 6 | the run is paused |
| 7 | cannot be done as asked: the target does not load or compile, an argument cannot travel, an extra is missing |
| 8 | refused: the run is in the wrong state for it, a worker refused, or `--yes` is missing |
| 69 | the store or the broker cannot be reached, written or read; no worker answered |
| 74 | stdout cannot be written: a full disk, or it is closed |
| 78 | wrong configuration, a damaged store, or one that a newer flowq wrote |
| 130 | stopped by Ctrl-C; `flowq resume` goes on |
| 143 | stopped by SIGTERM; `flowq resume` goes on |

## Which error has which

Errors of flowq are classes in `flowq.errors`, all under `FlowqError`. Each knows the exit code that the command line ends
with.

| error | code | raised |
|---|---|---|
"""  # noqa: E501

API = """\
# Python API

Everything in `flowq.__all__` and `flowq.contrib.django` is public. Methods of these classes that are not listed here, and modules below `flowq`, may
change without notice. Signature, chain, group, chord and their kin take what Celery's take;
[From Celery](../from-celery.md) says what differs.

"""  # noqa: E501
#: What a heading of the API page holds; what is in no other goes into the last one.
GROUPS = {
    "The app and its tasks": ("Flowq", "Task", "shared_task", "current_app", "current_task"),
    "Canvas": (
        *("Signature", "signature", "maybe_signature", "chain", "group", "chord"),
        *("xmap", "xstarmap", "chunks", "expand", "at_least"),
    ),
    "Flow": ("Flow",),
    "Runs": ("Run", "RunState", "State"),
    "Results": (
        *("AsyncResult", "GroupResult", "ResultSet", "EagerResult"),
        *("allow_join_result", "result_from_tuple"),
    ),
    "Caches": ("cache",),
    "The rest": (),
}
#: Celery's verbs are many; these classes list the members that are worth a look.
NO_MEMBERS = {"chain", "group", "chord", "xmap", "xstarmap", "chunks", "expand", "EagerResult"}
NO_MEMBERS |= {"State", "RunState", "current_app", "current_task", "errors"}


def exit_codes_page() -> str:
    """Exit codes, and the errors that lead to them."""
    from flowq import errors

    rows = []
    for name, value in vars(errors).items():
        if not (isinstance(value, type) and issubclass(value, errors.FlowqError)):
            continue
        text = (value.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")
        text = re.sub(r"^Raised (when|by) ", r"\1 ", re.sub(r"\s+", " ", text)).rstrip(".")
        rows.append(f"| `{name}` | {value.exit_code} | {text.replace('|', chr(92) + '|')} |")
    return EXIT + "\n".join(rows) + "\n"


def api_page() -> str:
    """One directive for each public name."""
    import flowq

    named = {name for names in GROUPS.values() for name in names}
    parts = [API]
    for heading, names in GROUPS.items():
        listed = names or sorted(set(flowq.__all__) - named)
        parts.append(f"## {heading}\n\n")
        parts += [directive(name) for name in listed if name in flowq.__all__]
    return "".join(parts).rstrip() + "\n"


def directive(name: str) -> str:
    """The autodoc directive of one name; a line of text for what is neither class nor function."""
    import flowq

    if name in ("current_app", "current_task"):
        what = "app" if name == "current_app" else "task (inside of one)"
        return f"`flowq.{name}`\n: Stands for the current {what}.\n\n"
    if name == "errors":
        return (
            "`flowq.errors`\n: The module of all exceptions; see [Exit codes](exit-codes.md).\n\n"
        )
    if name == "cache":
        shown = [".. autofunction:: flowq.cache.get", ".. autoclass:: flowq.cache.Cache"]
        return "".join(f"```{{eval-rst}}\n{each}\n```\n\n" for each in shown)
    value = getattr(flowq, name)
    kind = "autoclass" if isinstance(value, type) else "autofunction"
    members = "\n   :no-members:" if name in NO_MEMBERS and kind == "autoclass" else ""
    return f"```{{eval-rst}}\n.. {kind}:: flowq.{name}{members}\n```\n\n"


# -- the README's picture -----------------------------------------------------------------------


def picture() -> str:
    """The example of the README, drawn by flowq."""
    from flowq import Flowq, chord
    from flowq.app.submission import compile_for
    from flowq.render import drawing_of_graph, render

    app = Flowq("shop", set_as_current=False)
    fetch, price, report, alert = (
        app.task(name=f"shop.{name}")(lambda *a, **k: None)
        for name in ("fetch", "price", "report", "alert")
    )
    prices = chord([price.s("here"), price.s("there")], report.s()).on_error(alert.s())
    canvas = fetch.s("orders.csv") | prices
    return str(render(drawing_of_graph(compile_for(app, canvas), title="shop"), "svg"))


def pages() -> dict[Path, str]:
    """All generated files: path and text."""
    return {
        DOCS / "states.md": MADE + states_page(),
        DOCS / "images" / "states.svg": states_svg(),
        DOCS / "images" / "canvas.svg": picture(),
        DOCS / "reference" / "settings.md": MADE + settings_page(),
        DOCS / "reference" / "cli.md": MADE + cli_page(),
        DOCS / "reference" / "exit-codes.md": MADE + exit_codes_page(),
        DOCS / "reference" / "api.md": MADE + api_page(),
        DOCS / "reference" / "tested.md": MADE + tested_page(),
    }


# -- what is tested together ---------------------------------------------------------------------

TESTED = """\
# What is tested together

Printed from the parameters of the tests, which run on every change against real servers: RabbitMQ, Redis, PostgreSQL,
memcached, and Celery {celery} in programs of its own.

## Broker, backend, store

In each cell one program calls bare tasks, chains, chords, retries, errbacks and large values, and gets the same.

{cells}
{excluded}
A broker `memory` means that no server is named: client, coordinator and worker are one process.

## Pools

One suite over all of them: {pools}. What a pool cannot do, and says, is in [pools](../how-to/pools.md).

## flowq and Celery at either end

Each cell is one client, one worker and {count} things asked for: {features}.

{matrix}
`rpc://` counts no chords in Celery; there the test is that the client says so. And Celery's worker loses the reply of a task that was replaced, so
with it and `rpc://` that is not asked for.
"""  # noqa: E501


def tested_page() -> str:
    """The page about combinations that have tests."""
    from tests.contracts.test_fleet import BACKENDS, BROKERS, EXCLUDED, STORES
    from tests.contracts.test_pool import POOLS
    from tests.interop.test_matrix import CLIENTS, FEATURES, FORMS

    cells = ["| broker | store | " + " | ".join(f"`{b}`" for b in BACKENDS) + " |"]
    cells.append("|---" * (len(BACKENDS) + 2) + "|")
    for broker in BROKERS:
        for store in STORES:
            said = ["-" if (broker, backend) in EXCLUDED else "yes" for backend in BACKENDS]
            cells.append(f"| `{broker}` | `{store}` | " + " | ".join(said) + " |")
    excluded = [f"- `{a}` with `{b}`: {why}." for (a, b), why in EXCLUDED.items()]
    matrix = ["| client | worker | " + " | ".join(FORMS.values()) + " |"]
    matrix.append("|---" * (len(FORMS) + 2) + "|")
    ends = sorted(CLIENTS)
    matrix += [f"| {a} | {b} | " + " | ".join("yes" for _ in FORMS) + " |" for a, b in ends]
    return TESTED.format(
        celery="5.7",
        cells="\n".join(cells) + "\n",
        excluded="\n".join(excluded) + "\n",
        pools=", ".join(f"`{pool}`" for pool in POOLS),
        count=len(FEATURES),
        features=", ".join(FEATURES),
        matrix="\n".join(matrix) + "\n",
    )


def main() -> int:
    """Write what has changed; with --check only say what would."""
    sys.path.insert(0, str(DOCS.parent))
    stale = 0
    for path, text in pages().items():
        if path.is_file() and path.read_text() == text:
            continue
        stale += 1
        sys.stdout.write(f"{path.relative_to(DOCS.parent)}\n")
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    raise SystemExit(main())
