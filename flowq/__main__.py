"""``python -m flowq``."""

from __future__ import annotations

from flowq.cli import main

if __name__ == "__main__":
    main()
