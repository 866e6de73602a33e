"""flowq: Celery's canvas made durable."""

__version__ = "0.1.0"
