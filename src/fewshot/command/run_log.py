"""Write ``run.log``, even if the disk is full."""

import logging
import sys
from contextlib import suppress


class RunLog(logging.FileHandler):
    """Write log lines to a file.

    A full disk is reported once.
    """

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Report the first line that cannot be written.

        Logging itself would print a traceback for each line.
        """
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            print(f"{self.baseFilename}: cannot be written ({error.strerror})", file=sys.stderr)

    def close(self) -> None:
        """Close the file, even if the disk is full.

        The last lines may then be lost.
        """
        with suppress(OSError):
            super().close()
