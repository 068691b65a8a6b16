"""Use a trained method on your own images.

``predict = learner.fit(images, labels)``, then ``predict(images)``.
"""

import logging
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot import checkpoint
from fewshot.data.any_arrays import to_values
from fewshot.data.any_images import Images, to_labels, to_pixels
from fewshot.data.image_conversion import FULL_SCALE, Decoding
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.files import printable
from fewshot.fitted_learner import FittedLearner, view
from fewshot.leave_one_out import UNKNOWN, Fit, learn_trust
from fewshot.methods import MetaGAN, Method
from fewshot.methods.fixed_ways import refuse_other_classes
from fewshot.methods.predictor import Predictor
from fewshot.networks import find_pretrained
from fewshot.networks.norm_layers import batch_norms
from fewshot.passes import passes_in_parts
from fewshot.stored_settings import Resolver

log = logging.getLogger(__name__)
ENCODED = 8  # images in one pass of a frozen network: a few fit into the caches, and take half the time of many
LARGE = 4000  # support images of 28 x 28, above which a pass that cannot be split is announced


def load(path: str | Path, bn: str | None = None, trust: Collection[str] = ()) -> "Learner":
    """Load a trained method from a checkpoint.

    The learner also prepares images as in training.

    Args:
        path: a checkpoint of a run.
        bn: ``transductive``, ``support`` or ``running``; None for the protocol that the run was scored under.
        trust: names outside this project that the checkpoint's settings may build, such as ``"mine.Images"``.

    Raises:
        UserError: the file is missing or damaged, of another version, or builds anything that is not trusted.
    """
    content = checkpoint.read(path, trusted=trust)
    method = checkpoint.build_method(content, path, trust)
    settings = Resolver(content["settings"])
    data, task = (settings.resolve(content["settings"].get(key), (key,)) for key in ("data", "task"))
    assert isinstance(method, Method)
    method.bn = bn or content["settings"].get("bn") or method.bn
    backbone = find_pretrained(method.network)
    if backbone is not None:  # the data follow the network
        own = backbone.decoding
        data |= {"channels": own.channels, "image_size": own.image_size, "mean": 0.0, "std": 1.0}
    return Learner(
        method,
        data["channels"],
        data["image_size"],
        data["mean"],
        data["std"],
        data.get("fit", "resize"),
        bool(data.get("invert", False)),
        data.get("full_scale", FULL_SCALE),
        needs_unlabeled=isinstance(task, dict) and task.get("unlabeled", 0) > 0,
        preprocessing=backbone.decoding if backbone else None,
        values=data.get("pixels") is False,
    )


@dataclass(frozen=True)
class Learner:
    """Hold a trained method and its image preparation.

    Attributes:
        method: with the weights of the checkpoint; ``method.bn`` may be set.
        channels, image_size, fit_to, invert, full_scale: see ``fewshot.data.image_conversion.Decoding`` (``fit_to`` is
            ``fit``).
        mean, std: normalisation of pixels in [0, 1].
        needs_unlabeled: the method was trained with images without labels in each task.
        preprocessing: of a pretrained network, in place of ``fit_to``.
        values: the network takes arrays of any numbers, not pixels.
    """

    method: Method
    channels: int
    image_size: int
    mean: float = 0.0
    std: float = 1.0
    fit_to: str = "resize"
    invert: bool = False
    full_scale: int = FULL_SCALE
    needs_unlabeled: bool = False
    preprocessing: Decoding | None = None
    values: bool = False

    @property
    def decoding(self) -> Decoding:
        """Return how files become pixels.

        Raises:
            UserError: the network takes no images of files.
        """
        if self.preprocessing is not None:
            return replace(self.preprocessing, invert=self.invert, full_scale=self.full_scale)
        if self.values or self.channels not in (1, 3):
            kind = "features" if self.image_size == 1 else f"arrays of {self.channels} channels"
            raise UserError(f"this network takes {kind}, not image files: fewshot.load(PATH).fit(arrays, labels)")
        return Decoding(self.channels, self.image_size, self.fit_to, self.invert, self.full_scale)

    def fit(
        self,
        images: Images,
        labels: Sequence[Hashable] | Any,
        unlabeled: Images | None = None,
        generator: bool = True,
        views: int = 1,
        calibrate: bool = True,
        unknown: float | None = None,
    ) -> FittedLearner:
        """Adapt to a support set.

        The support set may have any number of classes and images.

        Args:
            images: files, images of Pillow's, arrays or tensors: see ``fewshot.data.any_images.to_pixels``. A network
                trained on features takes ``(M, D)``: see ``fewshot.data.any_arrays.to_values``.
            labels: one for each image: numbers or texts, in a sequence, an array or a tensor.
            unlabeled: images of the same classes, for the methods that use them.
            generator: False lets a MetaGAN adapt as its host alone, without generated images.
            views: the method adapts to so many versions of the images, and probabilities are means over them: the
                images themselves, and rotated, scaled, sheared and shifted by little (see ``fewshot.augment``).
            calibrate: fit the method again, without some of the images, for the temperature of the probabilities and
                for the knownness: see ``fewshot.leave_one_out``.
            unknown: call images that belong to no class ``"unknown"``, such as 0.05: at this rate of images that
                do belong to a class. Needs ``calibrate``, and two images of a class.

        Raises:
            UserError: the images are not what the network takes, there are fewer than two classes, or the
                method cannot take the task.
        """
        if views < 1:
            raise UserError(f"views={views}: must be at least 1")
        if views > 1 and self.image_size == 1:
            raise UserError(f"views={views} changes images, not features: leave views out")
        _refuse_rate(unknown, calibrate)
        pixels = self.read(images)
        names = to_labels(labels)
        classes = sorted(set(names), key=str)
        if len(names) != len(pixels):
            raise UserError(f"{len(pixels)} support images, but {len(names)} labels")
        if len(classes) < 2:
            raise UserError(f"the support set has {len(classes)} classes: at least 2 are needed")
        if unknown is not None and UNKNOWN in classes:
            raise UserError(f"unknown={unknown:g}: a class has the name {UNKNOWN!r} already: give it another name")
        if self.needs_unlabeled and unlabeled is None:
            raise UserError("this method was trained with images without labels: give some, unlabeled=DIR")
        number = {name: place for place, name in enumerate(classes)}
        y = torch.tensor([number[name] for name in names])
        # The order of the images must carry nothing, as in training: neither in a fit nor in what a fit leaves out.
        order = sorted(range(len(y)), key=lambda place: sha256(pixels[place].cpu().contiguous().numpy().data).digest())
        pixels = pixels[order]
        y = y[order]
        method = self.method.eval()
        if method.bn == "running" and any(layer.updates == 0 for layer in batch_norms(method.network)):
            raise UserError("bn=running: this checkpoint holds no running averages; choose bn=transductive or support")
        if isinstance(method, MetaGAN) and not generator:
            method = method.host
        refuse_other_classes(method, len(classes))
        self._announce_large(len(y))
        encode = partial(_encode, method)
        with torch.no_grad(), passes_in_parts(method):
            inputs = [self._inputs(pixels, number, encode, together=False) for number in range(views)]
            extra = None if unlabeled is None else self._inputs(self.read(unlabeled), 0, encode, together=True)
            fit = partial(_fit_views, method, inputs, y, len(classes), extra)
            trust = None
            if calibrate:
                # As queries the images have other views than as support images.
                asked = [inputs[0], *(self._inputs(pixels, place, encode, True) for place in range(1, views))]
                frozen = method.feature_extractor is not None
                trust = learn_trust(_ask(fit, asked), y, len(classes), frozen, unknown)
            predictors = fit(torch.arange(len(y)))
        return FittedLearner(
            classes, predictors, self.read, self.normalise, lambda: passes_in_parts(method), encode, trust
        )

    def _inputs(self, pixels: Tensor, number: int, encode: Callable[[Tensor], Tensor], together: bool) -> Tensor:
        """Return one view of images as the method takes these.

        Of many images of a frozen network few are normalised at a time.
        """
        if number == 0 and self.method.feature_extractor is not None and len(pixels):
            return torch.cat([encode(self.normalise(part)) for part in pixels.split(ENCODED)])
        return encode(view(self.normalise(pixels), number, together))

    def _announce_large(self, images: int) -> None:
        """Log that a large support set needs memory.

        Gradients need memory for all images at once.
        """
        pixels = images * self.image_size**2
        if self.method.adapted_parameters and pixels > LARGE * 28**2:
            log.warning("%d support images: the method adapts to all of them at once, which takes much memory", images)

    def read(self, images: Images) -> Tensor:
        """Convert images of any kind to pixels or values.

        Pixels are ``(M, C, S, S)``, as uint8 or as floats in [0, 1]; values are any floats.

        Raises:
            UserError: see ``fewshot.data.any_images.to_pixels`` and ``fewshot.data.any_arrays.to_values``.
        """
        shape = (self.channels, self.image_size, self.image_size)
        return to_values(images, shape) if self.values else to_pixels(images, shape, lambda: self.decoding)

    def normalise(self, images: Tensor) -> Tensor:
        """Return pixels as the network takes these."""
        scaled = images / 255 if images.dtype == torch.uint8 else images
        return (scaled.to(torch.get_default_dtype()) - self.mean) / self.std

    def pixels(self, images: Images) -> Tensor:
        """Return normalised images for the network.

        Images are ``(M, C, S, S)``.

        Raises:
            UserError: see ``fewshot.data.any_images.to_pixels``.
        """
        return self.normalise(self.read(images))


def _refuse_rate(unknown: float | None, calibrate: bool) -> None:
    """Refuse a rate that is none."""
    if unknown is None:
        return
    if not 0 < unknown < 1:
        raise UserError(f"unknown={printable(f'{unknown:g}')}: must be between 0 and 1, such as 0.05")
    if not calibrate:
        raise UserError(f"unknown={unknown:g} needs calibrate=True")


def _encode(method: Method, x: Tensor) -> Tensor:
    """Return features ``(M, D, 1, 1)`` of images, if the network is frozen.

    A task of features costs a matrix product.
    """
    network = method.feature_extractor
    if network is None or x.shape[1:] == (network.features, 1, 1):
        return x
    parts = [network(part.contiguous(memory_format=torch.channels_last)) for part in x.split(ENCODED)]
    features = torch.cat(parts) if parts else x.new_empty(0, network.features)
    return features[:, :, None, None]


def _fit_views(
    method: Method, inputs: Sequence[Tensor], y: Tensor, ways: int, unlabeled: Tensor | None, places: Tensor
) -> list[Predictor]:
    """Fit the method to the images at ``places``, in each view."""
    nothing = torch.zeros((), dtype=torch.int64)
    return [
        method.predictor(Episode(ways, x[places], y[places], x[:0], y[:0], nothing, nothing, unlabeled_x=unlabeled))
        for x in inputs
    ]


def _ask(fit: Callable[[Tensor], list[Predictor]], asked: Sequence[Tensor]) -> Fit:
    """Return a function that fits and then predicts other images of the support set."""

    def fit_part(kept: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        predictors = fit(kept)

        def predict(rest: Tensor) -> tuple[Tensor, Tensor]:
            found = [predictor(x[rest]) for predictor, x in zip(predictors, asked, strict=True)]
            return torch.stack([one.logits for one in found]), found[0].features

        return predict

    return fit_part
