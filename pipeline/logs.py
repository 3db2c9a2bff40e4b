"""Everything a task says goes to the task's own log file, and afterwards all is as it was."""

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
STANDARD_DESCRIPTORS = (1, 2)


@contextmanager
def task_log(path: Path, append: bool = False) -> Iterator[TextIO]:
    """Send log records from INFO up, warnings, stdout and stderr to a file for the length of a block.

    What libraries written in C and child processes print is caught too. Logging is set back to what it was, so a
    library that adds handlers of its own does not disturb the tasks that follow it in the same process.

    Parameters
    ----------
    path
        The log file. Its directory is made.
    append
        Whether to keep what is in the file.

    Yields
    ------
    TextIO
        The log file, open for writing.

    Raises
    ------
    OSError
        If the log can not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not append:
        path.unlink(missing_ok=True)
    # Appending: several descriptors write to the file, and none may overwrite what another one wrote.
    with open(path, "a", encoding="utf-8", errors="backslashreplace", buffering=1) as log, ExitStack() as stack:
        stack.enter_context(_redirected_descriptors(log))
        stack.enter_context(_redirected_streams(log))
        stack.enter_context(_redirected_logging(log))
        stack.enter_context(_logged_warnings())
        yield log


class _RedirectedStream:
    """A stream that writes to the log during the task and to the original stream ever after.

    Libraries imported during a task may keep what `sys.stderr` was then; they must not be left with a closed file.
    """

    def __init__(self, log: TextIO, original: TextIO | None) -> None:
        self.target: TextIO | None = log
        self._original = original

    def release(self) -> None:
        self.target = self._original

    def write(self, text: str) -> int:
        return self.target.write(text) if self.target is not None else len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.target is not None:
            self.target.flush()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self.target is None:
            raise OSError("the stream has no file descriptor")
        return self.target.fileno()

    @property
    def encoding(self) -> str:
        return "utf-8"

    @property
    def buffer(self) -> object:
        return self.target.buffer


@contextmanager
def _redirected_descriptors(log: TextIO) -> Iterator[None]:
    _flush_standard_streams()
    saved: dict[int, int] = {}
    for descriptor in STANDARD_DESCRIPTORS:
        # A process without a console may have none of them.
        with suppress(OSError):
            saved[descriptor] = os.dup(descriptor)
            os.dup2(log.fileno(), descriptor)
    try:
        yield
    finally:
        _flush_standard_streams()
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)


def _flush_standard_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()


@contextmanager
def _redirected_streams(log: TextIO) -> Iterator[None]:
    saved = sys.stdout, sys.stderr
    streams = [_RedirectedStream(log, stream) for stream in saved]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = saved
        for stream in streams:
            stream.release()


@contextmanager
def _redirected_logging(log: TextIO) -> Iterator[None]:
    root = logging.getLogger()
    loggers = [root, *(item for item in root.manager.loggerDict.values() if isinstance(item, logging.Logger))]
    saved = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    disabled = root.manager.disable
    handler = logging.StreamHandler(log)
    formatter = logging.Formatter(LINE)
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        handler.flush()
        for logger, handlers, level, propagate in saved:
            logger.handlers = handlers
            logger.propagate = propagate
            # Only where it differs: setting a level empties the caches of all loggers.
            if logger.level != level:
                logger.setLevel(level)
        logging.disable(disabled)


@contextmanager
def _logged_warnings() -> Iterator[None]:
    """Log warnings once per place, as Python would print them; `logging.captureWarnings` could not be nested."""
    logger = logging.getLogger("py.warnings")

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        logger.warning("%s", warnings.formatwarning(message, category, filename, lineno, line).rstrip())

    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.simplefilter("default")
        # What Python itself hides from users by default: they are for developers.
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        yield
