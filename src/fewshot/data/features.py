"""Give a data set the features of a frozen network in place of images."""

import json
import logging
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from fewshot.data.array_store import Store
from fewshot.data.feature_store import DTYPE, Decoded, Encoder, Images, compute
from fewshot.data.image_conversion import Decoding, decode_array
from fewshot.data.images import decode_files
from fewshot.data.large_classes import keep_large_classes
from fewshot.data.listing import Listing, fingerprint_of, in_order, no_rows
from fewshot.data.paths import cache_folder
from fewshot.data.progress import progress
from fewshot.data.split import Split
from fewshot.data.store_notes import Notes, report_notes
from fewshot.errors import UserError

log = logging.getLogger(__name__)
VERSION = 1  # raise it when stores must be built again
TITLE = "Computing features"


@runtime_checkable
class OfFiles(Protocol):
    """List the files behind the splits of a data set."""

    root: Path
    name: str
    decoding: Decoding
    least: dict[str, int]

    def listing(self) -> Listing:
        """Return the files of each class of each split."""
        ...


class InMemory(Protocol):
    """Load the splits of a data set."""

    def load(self) -> dict[str, Split]:
        """Return the splits by name."""
        ...


class Features:
    """Load the splits of a data set as features.

    Images come from the files where there are files, so that the network sees the resolution that it expects;
    otherwise the images of the splits are enlarged.

    Args:
        dataset: the images.
        encoder: the network.
        cache_dir: where the features are kept.
    """

    def __init__(self, dataset: OfFiles | InMemory, encoder: Encoder, cache_dir: str | Path) -> None:
        self.dataset = dataset
        self.encoder = encoder
        self.cache_dir = cache_dir

    def load(self) -> dict[str, Split]:
        """Return the splits by name.

        Features are ``(M, D, 1, 1)`` float32.

        Raises:
            UserError: as the data set; or the images are no pixels; or the cache folder cannot be written.
        """
        if isinstance(self.dataset, OfFiles):
            return self._of_files(self.dataset)
        return self._of_memory(self.dataset.load())

    def _of_files(self, dataset: OfFiles) -> dict[str, Split]:
        listing = dataset.listing()
        own = dataset.decoding
        decoding = replace(self.encoder.decoding, invert=own.invert, full_scale=own.full_scale)
        files = in_order(listing)

        def decode(start: int) -> Decoded:
            return decode_files([Path(path) for _, _, path in files[start:]], decoding, TITLE)

        store = self._store(dataset.name, dataset.root, fingerprint_of(listing), decoding)
        splits, notes = self._load(store, Images(files, no_rows(listing), decode))
        report_notes(notes, dataset.root, store.path, len(files), decoding.full_scale)
        return keep_large_classes(splits, dataset.least, dataset.root)

    def _of_memory(self, splits: dict[str, Split]) -> dict[str, Split]:
        if any(split.images.dtype != torch.uint8 for split in splits.values()):
            raise UserError(
                f"{self.encoder.name} takes images, but the data has values: choose backbone=identity or mlp"
            )
        digest = sha256()
        for split in splits.values():
            digest.update(f"{split.digest}".encode())
            digest.update(np.ascontiguousarray(split.images.numpy()).data)
        rows = [
            (key, label, str(row))
            for key, split in splits.items()
            for label, start, count in zip(split.classes, split.starts.tolist(), split.counts.tolist(), strict=True)
            for row in range(start, start + count)
        ]

        def decode(start: int) -> Decoded:
            for key, _, row in progress(rows[start:], len(rows) - start, TITLE):
                yield decode_array(splits[key].images[int(row)].numpy(), self.encoder.decoding)

        name = next(iter(splits.values())).name.rpartition("/")[0]
        store = self._store(name, Path(name), digest.hexdigest(), self.encoder.decoding)
        counts = {key: dict.fromkeys(split.classes, 0) for key, split in splits.items()}
        stored, _ = self._load(store, Images(rows, counts, decode))
        return {key: replace(stored[key], name=split.name) for key, split in splits.items()}

    def _store(self, name: str, root: Path, fingerprint: str, decoding: Decoding) -> Store:
        """Name the store of a network, a preprocessing and a folder."""
        parts = [VERSION, str(root.absolute()), asdict(decoding), self.encoder.digest()]
        key = sha256(json.dumps(parts).encode()).hexdigest()[:12]
        return Store(cache_folder(self.cache_dir) / f"{name}-features-{key}.json", name, root, fingerprint, DTYPE)

    def _load(self, store: Store, images: Images) -> tuple[dict[str, Split], Notes]:
        def build() -> None:
            log.info("%s: features are computed once, by %s", store.name, self.encoder.name)
            compute(store, images, self.encoder)

        return store.load(build)
