"""All benchmarks, one after the other."""

from benchmarks import accuracy, episodes, meta_step, overhead, scaling
from benchmarks.report import run

if __name__ == "__main__":
    run(meta_step.main, episodes.main, accuracy.main, overhead.main, scaling.main)
