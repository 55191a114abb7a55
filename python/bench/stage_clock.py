"""CPU time of the stages of a program, measured by wrapping the functions that are its stages."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

Hook = tuple[Any, str, str]
"""Owner (module or class), name of its function, name of the stage."""


class StageClock:
    """CPU seconds of each stage, those of a stage called by another taken off the caller's.

    CPU time of the calling thread, not wall time: stages in several threads on one processor would otherwise
    count each other's turns, and a busy machine would change the shares.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._running = threading.local()  # .inner: seconds of the stages inside each open stage, a stack

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, its time added to ``stage``."""

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not hasattr(self._running, "inner"):
                self._running.inner = []
            inner = self._running.inner
            inner.append(0.0)
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.thread_time() - start
                own = whole - inner.pop()
                if inner:
                    inner[-1] += whole
                with self._lock:
                    self.seconds[stage] += own

        return wrapper

    @contextmanager
    def watching(self, hooks: Sequence[Hook]) -> Iterator[StageClock]:
        """Within the block the hooked functions are timed; a name that is missing raises KeyError."""
        before = [(owner, name, owner.__dict__[name]) for owner, name, _ in hooks]
        try:
            for (owner, name, function), (_, _, stage) in zip(before, hooks, strict=True):
                setattr(owner, name, self.timed(stage, function))
            yield self
        finally:
            for owner, name, function in before:
                setattr(owner, name, function)
