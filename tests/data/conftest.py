"""Where the tests find real data, and the small splits built once a session."""

import os
from pathlib import Path

import pytest

from fewshot.data.glyphs import Glyphs
from fewshot.data.split import Split

DATA = Path(os.environ.get("FEWSHOT_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.fixture(scope="session")
def omniglot_root() -> Path:
    """The folder of the real Omniglot archives; skips where they are absent."""
    root = DATA / "omniglot"
    if not (root / "images_background.zip").exists():
        pytest.skip(f"no Omniglot archives in {root}: set FEWSHOT_TEST_DATA to the folder that holds omniglot/")
    return root


@pytest.fixture(scope="session")
def cifar_script() -> Path:
    """What unpacks CIFAR-FS; skips where it is absent."""
    script = DATA / "cifar_fs" / "unpack.py"
    if not script.exists():
        pytest.skip(f"no CIFAR-FS in {script.parent}: set FEWSHOT_TEST_DATA to the folder that holds cifar_fs/")
    return script


@pytest.fixture(scope="session")
def glyphs_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds all glyphs, two drawings of each."""
    folder = tmp_path_factory.mktemp("glyphs")
    Glyphs(folder, drawings=2).load()
    return folder


@pytest.fixture(scope="session")
def glyphs(glyphs_cache: Path) -> dict[str, Split]:
    return Glyphs(glyphs_cache, drawings=2).load()
