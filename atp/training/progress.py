"""Progress as a bar on a terminal, or as occasional lines in a log."""

import logging
import re
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

logger = logging.getLogger(__name__)


class Progress:
    """Count steps up to a total and show metrics beside the count."""

    def __init__(self, name: str, total: int, start: int = 0, *, enabled: bool = True, every_s: float = 10.0) -> None:
        self._name, self._total, self._done, self._every_s = name, total, start, every_s
        self._begin, self._start = time.monotonic(), start
        self._said = self._begin
        self._figures = ""
        self._enabled = enabled
        terminal = enabled and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=start, desc=name, dynamic_ncols=True, leave=False) if terminal else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if kind is None and self._enabled:
            seconds = time.monotonic() - self._begin
            logger.info("%s: %d steps in %.0f s%s", self._name, self._done - self._start, seconds, self._figures)

    def show(self, figures: dict[str, float]) -> None:
        """Set the metrics shown beside the count."""
        self._figures = "".join(f"  {name} {value:.3f}" for name, value in figures.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures.strip())

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        if self._bar is not None:
            self._bar.update(steps)
            return
        now = time.monotonic()
        if self._enabled and now - self._said >= self._every_s:
            self._said = now
            left = (now - self._begin) / (self._done - self._start) * (self._total - self._done)
            logger.info("%s: %d/%d, %.0f s left%s", self._name, self._done, self._total, left, self._figures)


def share_done(line: str) -> float | None:
    """Progress stated in a log line, in [0, 1]; None if the line is not from ``Progress``."""
    found = re.match(r"[^:]+: (?:(\d+)/(\d+), \d+ s left|\d+ steps in \d+ s)", line)
    if not found:
        return None
    return int(found[1]) / int(found[2]) if found[1] else 1.0
