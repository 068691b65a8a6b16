"""Run all benchmarks, one after the other."""

from benchmarks import accuracy, episodes, meta_step, overhead, scaling
from benchmarks.report import run_benchmarks

if __name__ == "__main__":
    run_benchmarks(meta_step.main, episodes.main, accuracy.main, overhead.main, scaling.main)
