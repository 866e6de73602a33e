"""Settings; tests say by environment variables which databases there are."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

_database = urlsplit(os.environ.get("ARTICLES", "sqlite:///articles.db"))
if _database.scheme == "sqlite":
    _default = {"ENGINE": "django.db.backends.sqlite3", "NAME": _database.path[1:]}
else:
    _default = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _database.hostname,
        "PORT": _database.port,
        "USER": _database.username,
        "PASSWORD": _database.password,
        "NAME": _database.path[1:],
    }
DATABASES = {"default": _default}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["articles.apps.ArticlesConfig"]
ROOT_URLCONF = "proj.urls"
ALLOWED_HOSTS = ["testserver"]
SECRET_KEY = "of a test"
USE_TZ = True

FLOWQ_STORE_URL = CELERY_STORE_URL = os.environ.get("STORE", "sqlite:///flowq.db")
FLOWQ_WORKER_POOL = CELERY_WORKER_POOL = os.environ.get("POOL", "prefork")
FLOWQ_WORKER_CONCURRENCY = CELERY_WORKER_CONCURRENCY = int(os.environ.get("SLOTS", "2"))
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
