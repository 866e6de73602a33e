"""Post to views, wait for what they started, and say what there is: `python post.py URL ...`.

`tables` makes the tables, `resume` goes on with the last run.
"""

from __future__ import annotations

import json
import os
import sys
import threading

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
django.setup()

from articles.models import Article  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from proj import app  # noqa: E402


def do(step: str, client: Client) -> str:
    """One step; gives the answer in a word."""
    if step == "tables":
        with connection.schema_editor() as editor:
            editor.create_model(Article)
        return ""
    if step == "resume":
        app._engine().resume(app.run("@last").run_id)
        return ""
    answer = client.post(step)
    return answer.content.decode() if answer.status_code == 200 else str(answer.status_code)


def texts() -> list[str]:
    """Of all articles."""
    return sorted(Article.objects.values_list("text", flat=True))


def main() -> None:
    """Wait until nothing is left to expand, or for 30 seconds."""
    client = Client(raise_request_exception=False)
    answers = [answer for step in sys.argv[1:] if (answer := do(step, client))]
    ended = [run for run in app.runs() if run.wait(30)]
    states = [run.state for run in ended]
    values = [run.result(0) for run in ended if run.state == "SUCCESS"]
    pause = threading.Event()
    for _ in range(300):  # a single `delay` is no run that could be waited for
        if not any(text.startswith("e.g.") for text in texts()):
            break
        pause.wait(0.1)
    app.close()
    found = {"answers": answers, "texts": texts(), "states": states, "values": values}
    sys.stdout.write(json.dumps(found))


main()
