"""flowq and Celery on the same work: `python -m benchmarks W2 --n 1000 --vs celery`."""
