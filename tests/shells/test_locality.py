"""The benchmark of the cache, small: pool children share what they fetched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.slow
def test_a_cache_saves_two_thirds_of_the_fetches(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "locality", "--n", "1500"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    lines = {line["cache"]: line for line in map(json.loads, done.stdout.splitlines())}
    if shutil.which("memcached", path="/usr/bin:/bin") is None:
        del lines["memcached"]
    else:
        assert done.returncode == 0, done.stdout + done.stderr
    for line in lines.values():
        assert line["fetches_without"] == 1500
        assert line["saved"] >= 2 / 3
