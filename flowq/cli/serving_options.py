"""Options of the long-lived processes."""

from __future__ import annotations

from typing import Annotated

import typer

AppName = Annotated[
    str | None,
    typer.Option("-A", "--app", envvar="FLOWQ_APP", metavar="APP", help="proj, proj.mod:app, f.py"),
]
Level = Annotated[str, typer.Option("-l", "--loglevel", metavar="LEVEL", help="DEBUG to CRITICAL.")]
Detach = Annotated[bool, typer.Option("-D", "--detach", help="Go on in the background.")]
PidPath = Annotated[str, typer.Option("--pidfile", metavar="FILE", help="Where the pid goes.")]
LogPath = Annotated[
    str, typer.Option("-f", "--logfile", metavar="FILE", help="Log there, not to stderr.")
]
NodeName = Annotated[
    str, typer.Option("-n", "--hostname", metavar="NAME", help="w1@%h: %h %n %d expand.")
]
Queues = Annotated[str, typer.Option("-Q", "--queues", metavar="NAMES", help="Queues to serve.")]
NotQueues = Annotated[
    str, typer.Option("-X", "--exclude-queues", metavar="NAMES", help="Queues not to serve.")
]
MaxTasks = Annotated[
    str | None, typer.Option("--max-tasks-per-child", metavar="N", help="Then a new child.")
]
MaxMemory = Annotated[
    str | None, typer.Option("--max-memory-per-child", metavar="KIB", help="Then a new child.")
]
HardLimit = Annotated[
    str | None, typer.Option("--time-limit", metavar="TIME", help="Of each task: 30s, 5m.")
]
SoftLimit = Annotated[
    str | None, typer.Option("--soft-time-limit", metavar="TIME", help="Likewise, as a warning.")
]
Prefetch = Annotated[
    str | None,
    typer.Option("--prefetch-multiplier", metavar="N", help="Bare tasks held for each slot."),
]
Autoscale = Annotated[
    str, typer.Option("--autoscale", metavar="MAX,MIN", help="As many slots as work asks for.")
]
Purge = Annotated[bool, typer.Option("--purge", help="Throw waiting bare tasks away first.")]
TaskEvents = Annotated[bool, typer.Option("-E", "--task-events", help="Send events of tasks.")]
WithCoordinator = Annotated[bool, typer.Option("--with-coordinator", help="Be a coordinator, too.")]
Grace = Annotated[
    str | None,
    typer.Option("--grace", metavar="TIME", help="What runs at TERM gets that long; else: any."),
]
