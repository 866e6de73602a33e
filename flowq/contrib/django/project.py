"""What an app has to know of the Django project around it."""

from __future__ import annotations

import os

from flowq.errors import ImproperlyConfigured

_VARIABLE = "DJANGO_SETTINGS_MODULE"


class Project:
    """The Django project of this process; see `flowq.app.framework` for what is asked of it."""

    task_cls = "flowq.contrib.django.task:DjangoTask"
    child_init = "flowq.contrib.django.project:prepare"

    @property
    def environ(self) -> dict[str, str]:
        """Variables that pool children need."""
        return {name: os.environ[name] for name in (_VARIABLE,) if name in os.environ}

    def set_up(self) -> None:
        """Load settings, apps and models, so that tasks may be imported. Repeatable.

        Raises:
            ImproperlyConfigured: Django is not installed.
        """
        try:
            import django
            from django.apps import apps
        except ModuleNotFoundError as problem:
            raise ImproperlyConfigured(
                f"{_VARIABLE} is set, but Django is not installed: pip install flowq[django], or "
                "unset it"
            ) from problem
        if not apps.ready and not apps.loading:
            django.setup()

    def packages(self) -> list[str]:
        """The packages of `INSTALLED_APPS`."""
        from django.apps import apps

        return [config.name for config in apps.get_app_configs()]


def prepare() -> None:
    """Called once in the zygote, before tasks are imported there."""
    from flowq.app import child

    child.prepare()
    Project().set_up()
    os.register_at_fork(before=_close_connections)


def _close_connections() -> None:
    """A connection that an import left open must not be shared by all children."""
    from django.db import connections

    connections.close_all()
