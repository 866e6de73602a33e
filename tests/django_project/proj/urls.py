"""Each view by its name."""

from __future__ import annotations

from articles import views
from django.urls import path

urlpatterns = [path(name, getattr(views, name)) for name in views.__all__]
