"""Run one of several processes of a job.

The command is ``python -m fewshot.command.ddp_worker JOB.yaml``.
"""

import logging
import sys
from pathlib import Path

from fewshot import distributed
from fewshot.command.execute import execute
from fewshot.command.exit_status import report_errors
from fewshot.command.job import Job
from fewshot.command.run_log import RunLog
from fewshot.startup import quiet_libraries


def main(file: str) -> None:
    """Run the job in this process.

    Processes other than the first print errors only.
    """
    job = Job.read(file)
    console = logging.StreamHandler(sys.stdout)
    run_log = RunLog(Path(job.out) / "run.log")
    run_log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = logging.ERROR if distributed.rank() else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", handlers=[console, run_log])
    quiet_libraries()
    with report_errors(Path(job.out), worker=True):
        execute(job)


if __name__ == "__main__":
    main(sys.argv[1])
