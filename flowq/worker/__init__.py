"""The worker: runs task bodies in pools of processes or threads and reports what came of it."""
