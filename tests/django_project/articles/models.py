"""What is stored."""

from __future__ import annotations

from django.db import models


class Article(models.Model):
    """A text with abbreviations."""

    text = models.TextField()
