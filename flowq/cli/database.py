"""``flowq db``: the store itself."""

from __future__ import annotations

from typing import Annotated

import typer

from flowq.cli import options
from flowq.cli.output import Output
from flowq.config import mask_url

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Upgrade, check and prune the store."
)


@app.command()
def upgrade(store: options.StoreUrl = None, json: options.Json = False) -> int:
    """Bring the store's tables to the version of this flowq; makes them where there are none."""
    from flowq.app.place import url_of
    from flowq.cli.opening import settings
    from flowq.store import Store, schema

    out = Output(json=json)
    url = url_of(settings(store))
    opened = Store(url)
    opened.make_folder()
    before = schema.version_of(opened.database)
    after = schema.upgrade(opened.database)
    if json:
        out.object({"store": mask_url(url), "before": before, "after": after})
    else:
        same = before == after
        out.say(f"{mask_url(url)} is at version {after}" + (" already" if same else ""))
    return 0


@app.command()
def check(store: options.StoreUrl = None, json: options.Json = False) -> int:
    """Look for damage; exit code 78 if there is any. Changes nothing."""
    from flowq.cli.opening import open_if_there
    from flowq.store.checking import check as look

    out = Output(json=json)
    opened = open_if_there(store)
    found = look(opened) if opened is not None else []
    if json:
        out.object({"ok": not found, "found": found})
    for text in found if not json else ():
        out.data(text)
    if opened is None:
        out.say("there is no store yet; the first run makes it")
    elif found:
        out.say("try: restore a copy, or move the store away and start with a new one")
    else:
        out.say("no damage was found")
    return 78 if found else 0


@app.command()
def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="How long ago they ended: 30d.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask whether to.")] = False,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """Remove runs that ended long ago, with all that belongs to them."""
    from flowq.app.lanes import sweep
    from flowq.cli.opening import open_if_there

    out = Output(json=json)
    age = options.seconds(older_than, "--older-than")
    opened = open_if_there(store)
    count = 0
    if opened is not None and age is not None:
        before = opened.now() - age
        count = len(opened.prunable(before))
        if count and not dry_run:
            if not yes:
                _confirm(count, older_than)
            count = opened.prune(before)
        if not dry_run:
            sweep(opened)
    if json:
        out.object({"removed": 0 if dry_run else count, "found": count})
    else:
        verb = "would be removed" if dry_run else "removed"
        out.say(f"{count:,} run{'' if count == 1 else 's'} {verb}")
    return 0


def _confirm(count: int, age: str) -> None:
    import sys

    from flowq.errors import Refused

    runs = f"{count:,} run{'' if count == 1 else 's'} that ended more than {age} ago"
    if sys.stdin is None or not sys.stdin.isatty():
        raise Refused(f"{runs} would be removed for good; repeat it with --yes")
    if not typer.confirm(f"{runs} would be removed for good; remove?", err=True):
        raise Refused("nothing was removed; flowq db prune --dry-run says what would be")
