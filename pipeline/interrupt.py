"""Ctrl-C that can't be lost.

Python raises KeyboardInterrupt wherever the program is. In a destructor or a callback of a library it is printed and
forgotten, and a run would go on to its end.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

REPEAT_S = 2.0


@contextmanager
def insistent_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt again and again after Ctrl-C, until the block has ended.

    Does nothing outside the main thread, or where the program has a way of its own to deal with Ctrl-C.
    """
    own = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    if own or threading.current_thread() is not threading.main_thread():
        yield
        return

    former_alarm = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        if not former_alarm:
            former_alarm.append(signal.signal(signal.SIGALRM, interrupt))
        signal.setitimer(signal.ITIMER_REAL, REPEAT_S)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if former_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former_alarm[0])
