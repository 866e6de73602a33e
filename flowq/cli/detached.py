"""``flowq run --detach``: the same command once more, in a process that outlives the shell."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from flowq.cli.output import Output


def start(out: Output, store: str | None) -> int:
    """Start the run in a session of its own; print its id once it is stored.

    What it says goes to a file beside the store. If it ends before that, what it said is said
    here and its exit code is returned.
    """
    arguments = [a for a in sys.argv[1:] if a != "--detach"]
    read, write = os.pipe()
    log = _log_file(store)
    with log.open("wb") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "flowq", *arguments, "--report-fd", str(write)],
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            pass_fds=(write,),
            start_new_session=True,
        )
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        uid = pipe.readline().decode().strip()
    if not uid:
        code = process.wait()
        text = log.read_text(errors="replace").rstrip()
        log.unlink(missing_ok=True)
        print(text, file=sys.stderr)
        return code or 1
    if out.json:
        out.object({"id": uid, "pid": process.pid, "log": str(log)})
    else:
        out.data(uid)
    out.say(f"runs as process {process.pid}; its words go to {log}")
    process.returncode = 0  # it is on its own now: no warning about it
    return 0


def report(descriptor: int, uid: str) -> None:
    """Tell the process that waits for it that the run is stored."""
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{uid}\n".encode())
        os.close(descriptor)


def _log_file(store: str | None) -> Path:
    """A new file beside a file store, else in the temporary folder."""
    from flowq.app.place import url_of
    from flowq.cli.opening import settings
    from flowq.store.database import make_folder, sqlite_path

    folder = Path(tempfile.gettempdir())
    url = url_of(settings(store))
    if url.startswith("sqlite:") and sqlite_path(url) != ":memory:":
        make_folder(sqlite_path(url))
        folder = Path(sqlite_path(url)).resolve().parent / "logs"
        folder.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(prefix="run-", suffix=".log", dir=folder)
    os.close(handle)
    return Path(name)
