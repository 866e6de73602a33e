"""flowq in a Django project.

An app that is made while `DJANGO_SETTINGS_MODULE` is set uses this by itself: its tasks are
`DjangoTask`s, `autodiscover_tasks()` looks through `INSTALLED_APPS`, and Django is set up wherever
tasks are imported, in pool children too. Importing it loads no Django.
"""

from __future__ import annotations

from flowq.contrib.django.project import Project
from flowq.contrib.django.task import DjangoTask

__all__ = ["DjangoTask", "Project"]
