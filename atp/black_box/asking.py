"""Queries a black box: concurrent, rate-limited, with retries, and only once per image."""

import logging
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from atp.black_box.boxes import Box, Question
from atp.black_box.cache import AnswerCache
from atp.black_box.predictions import NoAnswerError
from atp.black_box.settings import QuerySettings
from atp.training.progress import Progress

logger = logging.getLogger(__name__)

LONGEST_BACKOFF_S = 60.0

NOT_ASKED = "not asked"


@dataclass
class Asked:
    """The outcome of a query.

    Attributes:
        requests: number of requests, including failed ones.
        failures: reason by key of each image without a valid answer.
    """

    requests: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class _StoppedError(Exception):
    """Ends a thread's work."""


class _Pace:
    """Schedules the next request across all threads."""

    def __init__(self, rate: float) -> None:
        self._every_s = 1 / rate if rate else 0.0
        self._next = self._paused_until = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def pause(self, seconds: float) -> None:
        """Delay the requests of all threads."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def wait(self) -> None:
        """Block until this thread may send a request.

        Raises:
            _StoppedError: no more requests are allowed.
        """
        while True:
            with self._lock:
                now = time.monotonic()
                left = max(self._next, self._paused_until) - now
                if left <= 0:
                    self._next = now + self._every_s
            self.sleep(left)
            if left <= 0:
                return

    def sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)):
            raise _StoppedError


@dataclass
class _Asker:
    box: Box
    cache: AnswerCache
    section: QuerySettings
    pace: _Pace
    enough: int
    asked: Asked = field(default_factory=Asked)
    _in_a_row: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, key: str, question: Question) -> str | None:
        """Query until a valid answer is stored; returns the reason if all attempts fail."""
        reason, down = NOT_ASKED, False
        try:
            for attempt in range(self.section.attempts):
                if attempt:
                    delay = min(self.section.backoff_s * 2 ** (attempt - 1), LONGEST_BACKOFF_S)
                    # Jitter, so that threads do not retry at the same moment.
                    self.pace.sleep(delay * random.uniform(0.5, 1.0))
                self.pace.wait()
                with self._lock:
                    self.asked.requests += 1
                try:
                    answer = self.box.ask(question)
                except NoAnswerError as error:
                    reason, down = str(error), error.down
                    if error.after_s:
                        self.pace.pause(error.after_s)
                    if not error.again:
                        break
                else:
                    self.cache.put(key, answer)
                    with self._lock:
                        self._in_a_row = 0
                    return None
            logger.warning("query: %s: %s", question.name, reason)
        except _StoppedError:
            return reason
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if down else 0
            if self._in_a_row >= self.enough:
                self.pace.stop()
        return reason


def ask_all(
    box: Box, questions: Mapping[str, Question], cache: AnswerCache, section: QuerySettings, progress: Progress
) -> Asked:
    """Query all images; each valid answer is in the cache before its thread sends the next request.

    Stops early if the box fails for several images in a row.

    Args:
        questions: questions by cache key.
        progress: advanced by one for each image.

    Raises:
        InputError: access is denied, or an image cannot be read; earlier answers are kept.
    """
    at_once = section.concurrency or (4 if section.box == "endpoint" else 1)
    asker = _Asker(box, cache, section, _Pace(section.rate), max(8, 3 * at_once))
    with ThreadPoolExecutor(at_once, "query") as pool:
        waiting = {pool.submit(asker.work, key, question): key for key, question in questions.items()}
        try:
            for done in as_completed(waiting):
                reason = done.result()
                if reason is not None:
                    asker.asked.failures[waiting[done]] = reason
                progress.advance()
        except BaseException:
            # Pending requests are completed and stored.
            asker.pace.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return asker.asked
