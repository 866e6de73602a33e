"""A small Django project; its app is made when it is imported, as Celery's manual has it."""

from __future__ import annotations

from .flowq import app

__all__ = ["app"]
