"""Measure speed and memory beside learn2learn.

``python -m benchmarks`` runs all benchmarks, see README.md.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # works without an installation
