"""Use a trained method on your own images.

``predict = learner.fit(images, labels)``, then ``predict(images)``.
"""

import logging
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewshot import checkpoint, rng
from fewshot.augment import Affine
from fewshot.data.any_arrays import to_values
from fewshot.data.any_images import Images, to_labels, to_pixels
from fewshot.data.image_conversion import FULL_SCALE, Decoding
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods import MetaGAN, Method
from fewshot.methods.fixed_ways import refuse_other_classes
from fewshot.methods.predictor import Predictor
from fewshot.networks import Backbone, find_pretrained
from fewshot.networks.norm_layers import batch_norms
from fewshot.stored_settings import Resolver
from fewshot.streams import FixedSeed, ViewStream

log = logging.getLogger(__name__)
AT_ONCE = 300  # query images in one pass
PASS = 1000 * 28**2  # pixels of a channel in one pass of a backbone, if more than AT_ONCE images
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
    ) -> "FittedLearner":
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

        Raises:
            UserError: the images are not what the network takes, there are fewer than two classes, or the
                method cannot take the task.
        """
        if views < 1:
            raise UserError(f"views={views}: must be at least 1")
        if views > 1 and self.image_size == 1:
            raise UserError(f"views={views} changes images, not features: leave views out")
        x = self.pixels(images)
        names = to_labels(labels)
        classes = sorted(set(names), key=str)
        if len(names) != len(x):
            raise UserError(f"{len(x)} support images, but {len(names)} labels")
        if len(classes) < 2:
            raise UserError(f"the support set has {len(classes)} classes: at least 2 are needed")
        if self.needs_unlabeled and unlabeled is None:
            raise UserError("this method was trained with images without labels: give some, unlabeled=DIR")
        number = {name: place for place, name in enumerate(classes)}
        y = torch.tensor([number[name] for name in names])
        # The order of the images must carry nothing, as in training.
        order = rng.bits(rng.key(FixedSeed.SUPPORT_ORDER), torch.arange(len(y))).argsort()
        nothing = torch.zeros((), dtype=torch.int64)
        episode = Episode(
            len(classes), x[order], y[order], x[:0], y[:0], nothing, nothing,
            unlabeled_x=None if unlabeled is None else self.pixels(unlabeled),
        )  # fmt: skip
        method = self.method.eval()
        if method.bn == "running" and any(layer.updates == 0 for layer in batch_norms(method.network)):
            raise UserError("bn=running: this checkpoint holds no running averages; choose bn=transductive or support")
        if isinstance(method, MetaGAN) and not generator:
            method = method.host
        refuse_other_classes(method, len(classes))
        self._announce_large(len(x))
        with torch.no_grad(), passes_in_parts(method):
            predictors = [
                method.predictor(replace(episode, support_x=_view(episode.support_x, view, together=False)))
                for view in range(views)
            ]
        return FittedLearner(classes, predictors, self.read, self.normalise, lambda: passes_in_parts(method))

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


def _view(x: Tensor, number: int, together: bool) -> Tensor:
    """Return one view of images.

    Images are ``(M, C, S, S)``. View 0 is unchanged; the other views are changed a little.
    """
    if number == 0:
        return x
    key = rng.key(number)
    if together:  # no image's view depends on its place among the others
        return Affine()(x[:, None], rng.bits(key, ViewStream.QUERY).expand(len(x)))[:, 0]
    return Affine()(x[None], rng.bits(key, ViewStream.SUPPORT)[None])[0]


@contextmanager
def passes_in_parts(method: Method) -> Iterator[None]:
    """Split backbones' passes to bound memory.

    A part has a few hundred images. Passes for gradients, and passes whose statistics come from the support set
    (``bn=support``), stay whole. In a transductive pass each part has statistics of its own; a part is a sample of the
    whole batch.
    """
    with ExitStack() as stack:
        if not (method.bn == "support" and batch_norms(method.network)):
            for module in method.modules():
                if isinstance(module, Backbone):
                    stack.enter_context(_in_parts(module))
        yield


@contextmanager
def _in_parts(backbone: Backbone) -> Iterator[None]:
    whole = backbone.forward

    def forward(x: Tensor) -> Tensor:
        parts = -(-len(x) // max(AT_ONCE, PASS // (x.shape[-1] * x.shape[-2])))
        if parts < 2 or torch.is_grad_enabled():
            return whole(x)
        features = [whole(x[part::parts]) for part in range(parts)]
        joined = features[0].new_empty(len(x), *features[0].shape[1:])
        for part, rows in enumerate(features):
            joined[part::parts] = rows
        return joined

    backbone.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del backbone.forward


@dataclass(frozen=True)
class FittedLearner:
    """Label images with the support set's classes.

    Attributes:
        classes: the labels, sorted.
        predictors: one for each view of the images.
        read: images of any kind to pixels.
        normalise: pixels as the network takes these.
        limit_memory: a context in which predictors are called.
    """

    classes: list[Hashable]
    predictors: Sequence[Predictor]
    read: Callable[[Images], Tensor]
    normalise: Callable[[Tensor], Tensor]
    limit_memory: Callable[[], Any] = ExitStack

    def __call__(self, images: Images) -> list[Hashable]:
        """Return the label of each image."""
        return [self.classes[place] for place in self.probabilities(images).argmax(1).tolist()]

    def probabilities(self, images: Images) -> Tensor:
        """Return probabilities ``(M, N)``, columns as ``classes``.

        Of very many images a few hundred go together, in a fixed random order: where BatchNorm sees the batch, a
        folder sorted by class must not be cut into pieces of one class.
        """
        x = self.read(images)
        order = rng.bits(rng.key(FixedSeed.QUERY_ORDER), torch.arange(len(x))).argsort()
        parts = order.tensor_split(-(-len(x) // AT_ONCE)) if len(x) else ()
        probabilities = torch.empty(len(x), len(self.classes))
        with torch.no_grad(), self.limit_memory():
            for part in parts:
                probabilities[part] = torch.stack([*self._views(self.normalise(x[part]))]).mean(0).float()
        return probabilities

    def _views(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the probabilities of each view."""
        for view, predictor in enumerate(self.predictors):
            yield predictor(_view(x, view, together=True)).logits.softmax(1)
