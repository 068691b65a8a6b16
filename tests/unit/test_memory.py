"""Peak memory follows what a run allocates, and starts anew."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewshot.memory import peak_mb, reset_peak


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak can be reset on Linux only")
def test_peak_rises_and_resets():
    cpu = torch.device("cpu")
    reset_peak()
    before = peak_mb(cpu)
    block = torch.ones(100_000_000, dtype=torch.uint8)
    assert 80 < peak_mb(cpu) - before < 200
    del block
    reset_peak()
    assert peak_mb(cpu) < before + 50


FAULTS = """
import resource, sys, torch
from fewshot.memory import keep_freed, peak_mb, reset_peak
if sys.argv[1] == "kept":
    assert keep_freed()
def step():
    torch.ones(10_000_000)  # 40 MB: above what glibc learns to keep by itself
for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
reset_peak()
print(faults, peak_mb(torch.device("cpu")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_kept_for_the_next_step_and_given_back_for_the_next_run():
    def measured(mode: str) -> tuple[float, float]:
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        faults, peak = done.stdout.split()
        return float(faults), float(peak)

    (plain, floor), (kept, peak) = measured("plain"), measured("kept")
    assert kept < plain / 2
    assert peak < floor + 60
