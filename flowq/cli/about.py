"""``flowq version`` and ``flowq config``."""

from __future__ import annotations

from typing import Annotated

import typer

from flowq.cli import options
from flowq.cli.output import Output

config = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The settings in force.")


def version(json: options.Json = False) -> int:
    """Print flowq's version."""
    import platform

    from flowq import __version__

    out = Output(json=json)
    if json:
        out.object({"flowq": __version__, "python": platform.python_version()})
    else:
        out.data(f"flowq {__version__}")
    return 0


@config.command("show")
def show(
    everything: Annotated[
        bool, typer.Option("--all", help="Also settings that are at their default.")
    ] = False,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """Print the settings in force and where each comes from; passwords are masked."""
    from flowq.app.place import url_of
    from flowq.cli.opening import settings
    from flowq.config import mask_url

    out = Output(json=json)
    conf = settings(store)
    rows = conf.show()
    if json:
        out.object(
            {"settings": {row.name: {"value": row.value, "source": row.source} for row in rows}}
        )
        return 0
    shown = [row for row in rows if everything or row.source != "default"]
    if not any(row.name == "store_url" for row in shown):
        out.data(f"{'store_url':<28} {mask_url(url_of(conf))}  (default)")
    for row in shown:
        if row.name == "store_url" and row.value is None:
            continue
        source = "--store" if row.name == "store_url" and store else row.source
        out.data(f"{row.name:<28} {row.value}  ({source})")
    if not everything:
        out.say("all other settings are at their defaults; flowq config show --all lists them")
    return 0
