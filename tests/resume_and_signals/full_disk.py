"""Run ``run.py`` where no file may become larger than BYTES: ``full_disk.py BYTES ARGUMENTS``."""

import resource
import runpy
import sys
from pathlib import Path

RUN = Path(__file__).parents[2] / "run.py"

if __name__ == "__main__":
    size = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    sys.argv[0] = str(RUN)
    runpy.run_path(str(RUN), run_name="__main__")
