"""Write the one-shot task of Lake et al. (Science 2015) as folders for ``fewshot.classify``.

python experiments/lake_one_shot/write_runs.py output=DIR [root=data/omniglot] [seed=0]

DIR/run01 to run20 hold ``support/<character>/*.png`` and ``query/<character>/*.png``, one image each: 20 characters of
one evaluation alphabet, the support images by one drawer and the query images by another. As in the paper, each of
10 alphabets has two runs, whose four drawers differ. The images are the archive's own files, 105 x 105.

Differs from the paper, whose runs are a list of their own: the alphabets, drawers and characters are drawn here by a
fixed seed, the drawers from all 20, not from the four most typical. ``runs.csv`` says what was drawn.
"""

import csv
import io
import os
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fewshot.data.omniglot import DRAWINGS, open_archive, read_member
from fewshot.errors import UserError
from fewshot.files import write_bytes

ALPHABETS = 10
CHARACTERS = 20
SALT = "lake-runs-v1"


def write_runs(root: str | Path, output: str | Path, seed: int = 0, download: bool = True) -> list[dict[str, str]]:
    """Write the 20 runs of a ``seed`` to ``output``; return the rows of ``runs.csv``.

    Raises:
        UserError: Omniglot's evaluation archive is missing or not whole, or ``output`` holds something or cannot be
            written.
    """
    output = Path(output).expanduser()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"output={output} is not empty: name another folder, or delete it")
    rows: list[dict[str, str]] = []
    with open_archive(Path(root).expanduser(), "images_evaluation", download) as (source, contents, classes):
        alphabets: dict[str, list[str]] = {}
        for name in classes:
            alphabets.setdefault(name.split("/")[0], []).append(name)
        large = [name for name, characters in alphabets.items() if len(characters) >= CHARACTERS]
        for alphabet in sorted(_shuffled(large, f"{seed}")[:ALPHABETS]):
            drawers = _shuffled([f"{n:02}" for n in range(1, DRAWINGS + 1)], f"{seed}/{alphabet}")
            for pair in (drawers[:2], drawers[2:4]):
                run = f"run{len(rows) + 1:02}"
                rows.append({"run": run, "alphabet": alphabet, "support_drawer": pair[0], "query_drawer": pair[1]})
                for name in _shuffled(alphabets[alphabet], f"{seed}/{run}")[:CHARACTERS]:
                    by_drawer = {member.rpartition("_")[2].removesuffix(".png"): member for member in classes[name]}
                    for part, drawer in zip(("support", "query"), pair, strict=True):
                        target = output / run / part / name.split("/")[1] / Path(by_drawer[drawer]).name
                        write_bytes(target, read_member(source, contents, by_drawer[drawer]))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(output / "runs.csv", table.getvalue().encode())
    return rows


def _shuffled(names: Sequence[str], salt: str) -> list[str]:
    """Order names by a hash, not by a random generator, whose stream may change with a library."""
    return sorted(names, key=lambda name: sha256(f"{SALT}/{salt}/{name}".encode()).digest())


def main(arguments: Sequence[str]) -> None:
    """Run the command that the module's first lines describe.

    Raises:
        UserError: an argument is not one of these, or as ``write_runs``.
    """
    defaults = {"output": None, "root": f"{os.environ.get('FEWSHOT_DATA', 'data')}/omniglot", "seed": 0}
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)))
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{' '.join(arguments)}: {error}") from error
    assert isinstance(given, dict)
    settings = defaults | given
    if set(settings) != set(defaults) or not settings["output"] or not isinstance(settings["seed"], int):
        raise UserError("give output=DIR and, if wanted, root=DIR and seed=NUMBER")
    rows = write_runs(str(settings["root"]), str(settings["output"]), settings["seed"])
    print(f"{len(rows)} runs of {CHARACTERS} characters in {settings['output']}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
