"""The project's app."""

from __future__ import annotations

import os

from flowq import Flowq

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")

app = Flowq("proj")
app.config_from_object("django.conf:settings", namespace=os.environ.get("NAMESPACE", "FLOWQ"))
app.autodiscover_tasks()
