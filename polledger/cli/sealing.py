"""What ``polledger seal`` shows while a run trains."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from polledger.cli.output import output

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

REFRESH_SECONDS = 0.1
"""Shortest time between two updates of the bar: drawing must not be felt by the training."""

TRAINING = "training"

SMOOTHING = 0.3
"""Weight of the latest pause in the speed that is shown."""

LINE_SECONDS = 10.0
"""How often a line is written where there is no terminal to draw on."""


@contextlib.contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Whatever the task prints goes to standard error: standard output is for results."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


class Display:
    """Shows a run's progress: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._bar: TaskID | None = None
        self._label = ""
        self._shown = (0.0, 0)
        self._rate = 0.0
        self.warnings: list[str] = []
        self.begun = False
        """True once there is work to watch: options, key and authorities were accepted."""

    def phase(self, text: str) -> None:
        self.begun = True
        self._begin(text)
        if self._progress.disable or output.verbose:
            output.note(text)

    def progress(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._progress.update(self._bar, completed=done, total=total)

    def step(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if self._label != TRAINING:
            self._begin(TRAINING)
            self._shown = (now, done - 1)
        before, count = self._shown
        pause = LINE_SECONDS if self._progress.disable else REFRESH_SECONDS
        if now - before < pause and done < total:
            return
        latest = (done - count) / max(now - before, 1e-9)
        self._rate = latest if not self._rate else (1 - SMOOTHING) * self._rate + SMOOTHING * latest
        self._shown = (now, done)
        note = f"{describe_metrics(metrics)} · {self._rate:.3g} steps/s"
        if self._progress.disable:
            output.note(f"step {done} of {total}: {note}")
        elif self._bar is not None:
            self._progress.update(self._bar, completed=done, total=total, note=note)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        output.note(f"warning: {text}")

    def _begin(self, label: str) -> None:
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._label = label
        self._bar = self._progress.add_task(label, total=None, note="")


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """Up to three metrics in a few digits, loss first."""
    names = sorted(metrics, key=lambda name: (name != "loss", "accuracy" not in name, name))[:3]
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in names)
