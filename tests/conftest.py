"""For every test: one thread per process. The suite runs a process per core, and torch's threads wait spinning."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
