"""What Ctrl-C and SIGTERM do to a command: one line at once, an orderly end, and with the second an end at once."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130


class Interrupts:
    """The handlers of both signals.

    The line comes from the handler, not from where the exception ends: in between, what runs is taken down, and Ray
    takes seconds for that.

    Attributes:
        told: whether the user was told.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        """Take what says the line."""
        self._tell, self.told = tell, False

    def listen(self) -> None:
        """Handle the signals from now on; Ctrl-C not where it was ignored, as behind `nohup` and `&`."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._first)
        signal.signal(signal.SIGTERM, self._first)

    def tell(self) -> None:
        """Say the line, if it was not said."""
        if not self.told:
            self.told = True
            self._tell()

    def _first(self, number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG002 - the form of a handler
        for each in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(each) == self._first:
                signal.signal(each, _end)
        self.tell()
        raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End without another word; Ray's processes end with the one that started them."""
    os._exit(EXIT_INTERRUPTED)
