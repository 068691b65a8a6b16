"""torchvision loads where its compiled part is of another torch; nothing loads before torchvision is asked for."""

import os
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src"


def run(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-500:]
    return finished.stdout


def test_the_package_itself_loads_neither_torch_nor_torchvision():
    assert run("import fewshot, sys; print('torch' in sys.modules, 'torchvision' in sys.modules)") == "False False\n"


def test_torchvision_and_timm_load_after_the_package():
    code = "import fewshot, torchvision.transforms, timm, torch; print(torchvision.ops.nms is not None)"
    assert run(code) == "True\n"
