"""Decode image files once, into a memory-mapped file."""

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from fewshot.data.array_store import Store
from fewshot.data.image_conversion import FITS, Decoding, Unreadable
from fewshot.data.images import decode_files
from fewshot.data.listing import Listing, fingerprint_of, in_order, no_rows
from fewshot.data.paths import cache_folder
from fewshot.data.split import Split
from fewshot.data.split_cache import refused
from fewshot.data.store_notes import Notes, TwinFinder, first_reasons, relative, report_notes
from fewshot.errors import UserError

VERSION = 2  # raise it when the decoding changes, so that stores are built again
_LATER = ("scale", "resampling")  # settings of ``Decoding`` that older stores know nothing of


def stored(cache_dir: str | Path, name: str, root: Path, listing: Listing, decoding: Decoding) -> dict[str, Split]:
    """Return the splits with memory-mapped images.

    The images of ``listing`` are decoded if needed. There is one store for a ``root`` and a ``decoding``. The store is
    built again when the files or their splits change, by one process while the others wait. A class may have no images
    left. One line each names unreadable files, equal images of two splits, and 16-bit images that use a small part of
    their range.

    Raises:
        UserError: the folder ``cache_dir`` cannot be written, or no file is readable.
    """
    how = {key: value for key, value in asdict(decoding).items() if key not in _LATER or decoding.fit not in FITS}
    key = sha256(json.dumps([VERSION, str(root.absolute()), how]).encode()).hexdigest()[:12]
    store = Store(cache_folder(cache_dir) / f"{name}-{key}.json", name, root, fingerprint_of(listing), "|u1")
    splits, notes = store.load(lambda: _build(store, listing, decoding))
    report_notes(notes, root, store.path, len(in_order(listing)), decoding.full_scale)
    return splits


def _build(store: Store, listing: Listing, decoding: Decoding) -> None:
    files = in_order(listing)
    counts = no_rows(listing)
    notes = Notes()
    twins = TwinFinder(store.root, notes)
    decoded = decode_files([Path(path) for _, _, path in files], decoding)
    shape = (decoding.channels, decoding.image_size, decoding.image_size)
    try:
        # Written, not mapped: a full disk is an error then, not a signal, and no page stays in memory.
        with store.part.open("w+b") as stream:  # one that a killed process left is written over
            store.write_header(stream, (len(files), *shape))
            for (split, label, path), image in zip(files, decoded, strict=True):
                if isinstance(image, Unreadable):
                    notes.unreadable.append((relative(path, store.root), str(image)))
                    continue
                stream.write(image.pixels.data)
                counts[split][label] += 1
                twins.add(split, path, image.pixels.data)
                notes.see(image.largest)
            if len(notes.unreadable) == len(files):
                reasons = first_reasons(notes.unreadable)
                raise UserError(f"{store.root}: none of {len(files)} files is a readable image: {reasons}")
            store.finish(stream, (len(files) - len(notes.unreadable), *shape), counts, notes)
    except OSError as error:
        raise refused(store.path.parent, error) from error
    finally:
        store.part.unlink(missing_ok=True)
