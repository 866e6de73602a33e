"""Views that store an article and have its abbreviations expanded, in every way there is."""

from __future__ import annotations

import os

from django.db import transaction
from django.db.transaction import on_commit
from django.http import HttpRequest, HttpResponse

from flowq import chain

from .models import Article
from .tasks import expand_abbreviations, expand_later, is_connected, shout

__all__ = [
    "at_once",
    "canvas",
    "connections",
    "delay_on_commit",
    "dies",
    "in_task",
    "literal",
    "savepoint",
]


def literal(request: HttpRequest) -> HttpResponse:
    """As in Celery's manual."""
    with transaction.atomic():
        article = Article.objects.create(text="e.g. literal")
        on_commit(lambda: expand_abbreviations.delay(article.pk))
        fail_if_asked(request)
    return HttpResponse()


def delay_on_commit(request: HttpRequest) -> HttpResponse:
    """The short form; says whether the run was written in the transaction."""
    with transaction.atomic():
        article = Article.objects.create(text="e.g. short")
        result = expand_abbreviations.delay_on_commit(article.pk)
        fail_if_asked(request)
    return HttpResponse("later" if result is None else "written")


def canvas(request: HttpRequest) -> HttpResponse:
    """A chain, and the database by name."""
    with transaction.atomic():
        article = Article.objects.create(text="e.g. chain")
        steps = chain(expand_abbreviations.s(article.pk), shout.s())
        steps.apply_async_on_commit(using="default")
        fail_if_asked(request)
    return HttpResponse()


def savepoint(request: HttpRequest) -> HttpResponse:
    """What a savepoint undoes is not sent; the rest is."""
    with transaction.atomic():
        article = Article.objects.create(text="e.g. kept")
        expand_abbreviations.delay_on_commit(article.pk)
        try:
            with transaction.atomic():
                lost = Article.objects.create(text="e.g. lost")
                expand_abbreviations.delay_on_commit(lost.pk)
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    return HttpResponse()


def at_once(request: HttpRequest) -> HttpResponse:
    """Outside of a transaction there is nothing to wait for."""
    article = Article.objects.create(text="e.g. at once")
    expand_abbreviations.delay_on_commit(article.pk)
    return HttpResponse()


def in_task(request: HttpRequest) -> HttpResponse:
    """The transaction is a task's."""
    expand_later.apply_async((7,), durable=True)
    return HttpResponse()


def connections(request: HttpRequest) -> HttpResponse:
    """What a task leaves open, the next call in that worker does not find."""
    chain(is_connected.si(True), is_connected.si(True)).apply_async(queue="celery")
    return HttpResponse(type(is_connected.app.tasks[is_connected.name]).__base__.__name__)


def dies(request: HttpRequest) -> HttpResponse:
    """The process ends right after the commit, before anything else is done."""
    with transaction.atomic():
        on_commit(lambda: os._exit(3))
        article = Article.objects.create(text="e.g. died")
        expand_abbreviations.delay_on_commit(article.pk)
    return HttpResponse()


def fail_if_asked(request: HttpRequest) -> None:
    """Raise in the transaction."""
    if "fail" in request.GET:
        raise ZeroDivisionError
