"""What is done to articles after their transaction; imported once Django is set up."""

from __future__ import annotations

from django.db import connection

from flowq import shared_task

from .models import Article


@shared_task
def expand_abbreviations(pk: int) -> int:
    """Fails if the article is not committed."""
    article = Article.objects.get(pk=pk)
    article.text = article.text.replace("e.g.", "for example")
    article.save()
    return pk


@shared_task
def shout(pk: int) -> int:
    """Put it in capitals."""
    article = Article.objects.get(pk=pk)
    article.text = article.text.upper()
    article.save()
    return pk


@shared_task
def expand_later(pk: int) -> None:
    """A task with a transaction of its own, in a worker."""
    from django.db import transaction

    with transaction.atomic():
        article = Article.objects.create(text=f"e.g. after {pk}")
        expand_abbreviations.delay_on_commit(article.pk)


@shared_task
def is_connected(query: bool) -> bool:
    """Whether the call found a connection open; may leave one."""
    found = connection.connection is not None
    if query:
        Article.objects.count()
    return found
