"""Folders of images of all other kinds, through the commands: training, and labelling by a trained network."""

from pathlib import Path
from random import Random

from made_folders import CASES, Made, emptied
from trial_kinds import EITHER, REFUSED, Trial, kind

SMALL = (
    "data=folder", "data.image_size=16", "data.channels=1", "method=protonet", "backbone.width=4", "task=5w1s",
    "task.ways=2", "task.train_ways=2", "task.queries=1", "task.train_queries=1", "task.meta_batch=1",
    "task.val_episodes=2", "task.test_episodes=2", "trainer.max_steps=2", "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1", "figures=false",
)  # fmt: skip


# A name for Hydra, which is typed in another way; and users without rights, who cannot load the libraries either.
LEFT_OUT = ("escape_sequences_in_the_root", "closed_folders", "a_closed_root", "closed_files")


def _made(random: Random, workshop: Path) -> tuple[Made, str]:
    """Make a folder by a case of random choice; return its name too."""
    case = random.choice([case for case in CASES if case.__name__ not in LEFT_OUT])
    made = Made(emptied(workshop) / "images", random, fewest=2)
    case(made)
    return made, case.__name__


@kind
def trained(random: Random, workshop: Path) -> Trial:
    """Train on a folder; where the folder is right, the task may still need more classes or images."""
    made, name = _made(random, workshop)

    def command() -> int:
        from trials import run_py

        run_py(*SMALL, f"data.root={made.root}", "name=images")
        return 0

    refused = bool(made.refused) and not made.options
    return Trial(f"train on {name}", command, REFUSED if refused else EITHER, (made.refused,) if refused else ())


@kind
def labelled(random: Random, workshop: Path) -> Trial:
    """Label the folder of one split by the folder of another."""
    checkpoint = _network(workshop)
    made, name = _made(random, workshop)
    support, query = random.choice((("train", "test"), ("train", "train"), ("", ""), ("train/train0", "train")))

    def command() -> int:
        from fewshot.classify import main

        return main(
            [f"checkpoint={checkpoint}", f"support={made.root / support}", f"query={made.root / query}", "output=a.csv"]
        )

    return Trial(f"label {query or 'all'} by {support or 'all'} of {name}", command, EITHER)


def _network(workshop: Path) -> Path:
    """Train a small network on images, once."""
    from trials import attempt, run_py

    folder = workshop / "network"
    if not folder.exists():
        made = Made(emptied(workshop) / "images", Random(0))
        for split in ("train", "val", "test"):
            for name in 4 * [f"{split}/a", f"{split}/b", f"{split}/c"]:
                made.image(name.replace("/", f"/{split} "))
        arguments = (*SMALL, f"data.root={made.root}", f"hydra.run.dir={folder}")
        outcome, text = attempt(Trial("a network", lambda: run_py(*arguments), EITHER), workshop)
        assert outcome == "accepted", text
    return folder / "checkpoints/last.ckpt"
