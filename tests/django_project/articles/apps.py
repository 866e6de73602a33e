"""Its configuration, named in `INSTALLED_APPS` by this class."""

from __future__ import annotations

from django.apps import AppConfig


class ArticlesConfig(AppConfig):
    """Nothing special."""

    name = "articles"
