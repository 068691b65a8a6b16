"""Speed and memory beside learn2learn; see README.md. ``python -m benchmarks`` runs all of them."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # works without an installation
