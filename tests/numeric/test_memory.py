"""Peak memory follows what a run allocates, and starts anew."""

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
