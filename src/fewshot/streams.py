"""List the streams of random numbers.

The streams share a key. ``rng`` makes a number from a key and counters. Every use of one key has a stream of its own
here, as the first counter, so that two uses never read the same numbers. The values are part of every result: none may
change.

| key | enum |
|---|---|
| the key of one episode or minibatch in the sampler | ``EpisodeStream`` |
| ``Episode.key``, which methods and networks receive | ``TaskStream`` |
| the key of one view of a user's images | ``ViewStream`` |
| keys that are the same in every run | ``FixedSeed`` |
"""

from enum import IntEnum, unique


@unique
class EpisodeStream(IntEnum):
    """Name the random choices in sampling an episode.

    A minibatch has choices of its own.
    """

    CLASSES = 0
    IMAGES = 1
    SUPPORT = 2
    QUERY = 3
    TASK = 4  # becomes Episode.key
    UNLABELED = 5
    UNLABELED_QUERY = 6
    ROTATIONS = 7
    LABELED = 8  # whether the task has labels
    DISTINCT = 9  # of the sampler's root key: which of a limited number of tasks
    WITHIN = 10
    GROUP = 11
    AUGMENT = 12
    UNKNOWN = 13  # the order of the unknown images
    BATCH_IMAGES = 32
    BATCH_ROTATIONS = 33
    BATCH = 34  # becomes Episode.key of a minibatch


@unique
class TaskStream(IntEnum):
    """Name the random parts of one task.

    The parts belong to methods and networks. A new method with random parts adds a line.
    """

    INNER_FAKES = 0
    OUTER_FAKES = 1
    WEAK_AUGMENTATION = 2
    STRONG_AUGMENTATION = 3
    FINETUNING = 4  # becomes the key of one step
    COLOURS = 5
    DROP_BLOCK = 16


@unique
class ViewStream(IntEnum):
    """Name the image sets of one view.

    A view changes the support and query images of a user.
    """

    SUPPORT = 0
    QUERY = 1


@unique
class FixedSeed(IntEnum):
    """Name the seeds that no setting chooses."""

    QUERY_ORDER = 1  # of images that a user gives
    SUPPORT_FINGERPRINT = 2
    QUERY_FINGERPRINT = 3
    LABELED_IMAGES = 0x1ABE1  # which images of a class are labelled
