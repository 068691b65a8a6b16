"""Run jobs in worker processes.

A killed worker harms no other worker.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import TypeVar

from joblib.externals.loky import ProcessPoolExecutor
from joblib.externals.loky.process_executor import TerminatedWorkerError

Result = TypeVar("Result")


def run_in_workers(
    jobs: Sequence[Callable[[], Result]],
    workers: int,
    variables: Mapping[str, str],
    without_worker: Callable[[int], Result],
) -> list[Result]:
    """Return the results of ``jobs``, in their order.

    Each worker is a pool of one process: a pool of several kills them all when one of them dies.

    Args:
        jobs: what to call; pickled by value.
        workers: how many jobs run at once.
        variables: of the environment of the processes.
        without_worker: gives the result of the job, by number, whose process was killed.
    """
    waiting = deque(enumerate(jobs))
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def work() -> None:
        pool: ProcessPoolExecutor | None = None
        while waiting and not errors:
            try:
                number, job = waiting.popleft()
            except IndexError:  # another thread was faster
                break
            pool = pool or ProcessPoolExecutor(max_workers=1, env=dict(variables))
            try:
                results[number] = pool.submit(job).result()
            except TerminatedWorkerError:
                pool.shutdown()
                pool = None
                results[number] = without_worker(number)
            except BaseException as error:
                errors.append(error)
        if pool:
            pool.shutdown()

    threads = [Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(jobs))]
