"""One of several processes of a job: ``python -m fewshot.command.ddp_worker JOB.yaml``."""

import logging
import sys
from pathlib import Path

from fewshot import distributed
from fewshot.command.execute import execute
from fewshot.command.exit_status import quiet_libraries, report_errors
from fewshot.command.job import Job


def main(file: str) -> None:
    """The first process says what a run in one process would, the others only what goes wrong."""
    job = Job.read(file)
    first = distributed.rank() == 0
    console, record = logging.StreamHandler(sys.stdout), logging.FileHandler(Path(job.out) / "run.log")
    record.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(
        level=logging.INFO if first else logging.ERROR, format="%(message)s", handlers=[console, record]
    )
    quiet_libraries()
    with report_errors(Path(job.out), worker=True):
        execute(job)


if __name__ == "__main__":
    main(sys.argv[1])
