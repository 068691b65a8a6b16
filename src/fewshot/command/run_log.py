"""Write ``run.log``, on a disk that may be full."""

import logging
import sys
from contextlib import suppress


class RunLog(logging.FileHandler):
    """Write lines to a file; say once if the disk takes no more."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Replace logging's traceback for each line that cannot be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            print(f"{self.baseFilename}: cannot be written ({error.strerror})", file=sys.stderr)

    def close(self) -> None:
        """Close the file, whose last lines may not fit on the disk."""
        with suppress(OSError):
            super().close()
