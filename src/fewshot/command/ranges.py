"""List the ranges of all numeric settings, which type hints cannot state."""

import math
from dataclasses import dataclass

from fewshot.data.arrays import MAX_FEATURES

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Range:
    """Hold the range of a numeric setting.

    Attributes:
        least, most: the ends of the range.
        open: leave ``least`` itself out.
    """

    least: float = -math.inf
    most: float = math.inf
    open: bool = False

    def __contains__(self, value: float) -> bool:
        return math.isfinite(value) and self.least <= value <= self.most and not (self.open and value == self.least)

    def __str__(self) -> str:
        if self.least > -math.inf and self.most < math.inf:
            return f" {'above' if self.open else 'from'} {self.least:.10g} to {self.most:.10g}"
        if self.least > -math.inf:
            return f" above {self.least:g}" if self.open else f" of at least {self.least:g}"
        return f" of at most {self.most:g}" if self.most < math.inf else ""


_COUNT = Range(1)
_SOME_OR_NONE = Range(0)
_POSITIVE = Range(0, open=True)
_FRACTION = Range(0, 1)
ANY = Range()
_SEED = Range(0, MAX_SEED)

# By the last part of a key; a number that is not here may be any finite one.
RANGES: dict[str, Range] = {
    **dict.fromkeys(("seed", "test_seed", "split_seed"), _SEED),
    # of tasks
    **dict.fromkeys(("ways", "train_ways"), Range(2)),
    "test_episodes": Range(2, 10**7),
    "val_episodes": Range(0, 10**7),
    "meta_batch": Range(1, 10**6),
    **dict.fromkeys(("shots", "queries", "train_shots", "train_queries"), _COUNT),
    **dict.fromkeys(("unlabeled", "distractors", "train_unlabeled", "unknown"), _SOME_OR_NONE),
    **dict.fromkeys(("train_distractors", "unlabeled_query"), _SOME_OR_NONE),
    "train_distinct": _COUNT,
    "train_batch": Range(1, 10**6),
    "unlabeled_tasks": _FRACTION,
    # of data
    **dict.fromkeys(("within", "eval_within"), _FRACTION),
    "label_fraction": Range(0, 1, open=True),
    "channels": Range(1, MAX_FEATURES),
    "image_size": Range(1, 1024),
    "full_scale": Range(1, 65_535),
    "mean": Range(-1e6, 1e6),
    "std": Range(-1e6, 1e6),  # below 0: dark on white; 0 is refused apart
    **dict.fromkeys(("shares", "least"), _SOME_OR_NONE),
    "classes": _COUNT,
    "points": _COUNT,
    "spread": _POSITIVE,
    # of networks
    **dict.fromkeys(("width", "widths", "features", "hidden", "noise", "condition"), Range(1, 8192)),
    "depth": Range(1, 64),
    "pooled": Range(0, 64),
    "unshuffle": Range(1, 64),
    "drop_rate": Range(0, 0.99),
    "crop": Range(0, 1, open=True),
    "block_size": Range(1, 1024),
    # of methods
    **dict.fromkeys(("inner_rate", "threshold", "weight", "processing_steps"), _SOME_OR_NONE),
    **dict.fromkeys(("steps", "test_steps"), Range(1, 10_000)),
    "finetune_steps": Range(0, 10_000),
    "finetune_rate": _SOME_OR_NONE,
    "warm": Range(0, 0.99),
    **dict.fromkeys(("rank", "batch", "chunk"), _COUNT),
    **dict.fromkeys(("inner_real", "inner_fake", "outer_real", "outer_fake"), _SOME_OR_NONE),
    **dict.fromkeys(("inner_from", "generator_every", "start"), _SOME_OR_NONE),
    **dict.fromkeys(("inner_fakes", "outer_fakes"), Range(1, 65_536)),
    **dict.fromkeys(("clip_norm", "clip_value", "scale", "regularisation", "power"), _POSITIVE),
    **dict.fromkeys(("a", "b"), ANY),  # the ends of an initial weight
    # of augmentation
    "degrees": Range(0, 180),
    "shear": Range(0, 80),
    **dict.fromkeys(("shift", "cutout"), _FRACTION),
    # of optimisers, which know more of these themselves
    **dict.fromkeys(("lr", "eps", "weight_decay", "momentum"), _SOME_OR_NONE),
    "betas": Range(0, 1),
    # of the trainer and the loggers
    "max_steps": Range(-1, 10**9),
    **dict.fromkeys(("log_every_n_steps", "num_nodes", "val_check_interval"), Range(1, 10**9)),
    "num_sanity_val_steps": _SOME_OR_NONE,
    "devices": Range(-1),
    "flush_logs_every_n_steps": _COUNT,
    "timeout": _SOME_OR_NONE,
}
