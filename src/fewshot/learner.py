"""A trained method on images of one's own: ``predict = learner.fit(images, labels)``, then ``predict(images)``."""

from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fewshot import checkpoint, rng
from fewshot.augment import Affine
from fewshot.data.images import decode_all
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods import MetaGAN, Method
from fewshot.methods.predictor import Predictor
from fewshot.networks.norm_layers import batch_norms
from fewshot.stored_settings import Resolver
from fewshot.streams import FixedSeed, ViewStream

Images = Tensor | Sequence[str | Path]
AT_ONCE = 300  # query images in one pass
_DRAWINGS = ("omniglot", "glyphs")  # ink is bright there; checkpoints of format 1 do not store ``invert`` for them


def load(path: str | Path, bn: str | None = None, trust: Collection[str] = ()) -> "Learner":
    """Return the method of a checkpoint, with its weights and the preparation of its images.

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
    return Learner(
        method,
        data["channels"],
        data["image_size"],
        data["mean"],
        data["std"],
        data.get("fit", "resize"),
        data.get("invert", data.get("name") in _DRAWINGS),
        needs_unlabeled=isinstance(task, dict) and task.get("unlabeled", 0) > 0,
    )


@dataclass(frozen=True)
class Learner:
    """What ``fewshot.load`` returns: a method with its weights, and how its images were prepared.

    Attributes:
        method: with the weights of the checkpoint; ``method.bn`` may be set.
        channels, image_size, fit_to, invert: as ``fewshot.data.images.decode`` (there ``fit``).
        mean, std: normalisation of pixels in [0, 1].
        needs_unlabeled: it was trained with images without labels in each task.
    """

    method: Method
    channels: int
    image_size: int
    mean: float = 0.0
    std: float = 1.0
    fit_to: str = "resize"
    invert: bool = False
    needs_unlabeled: bool = False

    def fit(
        self,
        images: Images,
        labels: Sequence[Hashable],
        unlabeled: Images | None = None,
        generator: bool = True,
        views: int = 1,
    ) -> "Classifier":
        """Adapt to a support set: any number of classes and of images of each, as far as the method allows it.

        Args:
            images: files, or ``(M, C, S, S)`` uint8, or floats in [0, 1] prepared like the training images.
            labels: one for each image.
            unlabeled: images of the same classes, for the methods that use them.
            generator: False lets a MetaGAN adapt as its classifier alone would, without generated images.
            views: the method adapts to so many versions of the images, and probabilities are means over them: as
                they are, and turned, scaled, sheared and shifted by little (see ``fewshot.augment``).

        Raises:
            UserError: the images are not what the network takes, there are fewer than two classes, or the
                method cannot take the task.
        """
        if views < 1:
            raise UserError(f"views={views}: must be at least 1")
        x, classes = self.pixels(images), sorted(set(labels), key=str)
        if len(labels) != len(x):
            raise UserError(f"{len(x)} support images, but {len(labels)} labels")
        if len(classes) < 2:
            raise UserError(f"the support set has {len(classes)} classes: at least 2 are needed")
        if self.needs_unlabeled and unlabeled is None:
            raise UserError("this method was trained with images without labels: give some, unlabeled=DIR")
        number = {label: place for place, label in enumerate(classes)}
        y = torch.tensor([number[label] for label in labels])
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
        with torch.no_grad():
            predictors = [
                method.predictor(replace(episode, support_x=_view(episode.support_x, view, together=False)))
                for view in range(views)
            ]
        return Classifier(classes, predictors, self.pixels)

    def pixels(self, images: Images) -> Tensor:
        """``(M, C, S, S)`` as the network takes them.

        Raises:
            UserError: a file cannot be read, or a tensor has another shape.
        """
        if not isinstance(images, Tensor):
            array, left_out = decode_all(
                [Path(file) for file in images], self.channels, self.image_size, self.fit_to, self.invert
            )
            if left_out:
                raise UserError(f"{left_out[0][0]}: {left_out[0][1]}")
            images = torch.from_numpy(array)
        wanted = (self.channels, self.image_size, self.image_size)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise UserError(
                f"images are {tuple(images.shape)}, but the network takes (M, {', '.join(map(str, wanted))})"
            )
        scaled = images / 255 if images.dtype == torch.uint8 else images
        return (scaled.to(torch.get_default_dtype()) - self.mean) / self.std


def _view(x: Tensor, number: int, together: bool) -> Tensor:
    """Images ``(M, C, S, S)`` each changed a little in its own way, or all ``together`` in one; view 0 as they are."""
    if number == 0:
        return x
    key = rng.key(number)
    if together:  # no image's view depends on its place among the others
        return Affine()(x[:, None], rng.bits(key, ViewStream.QUERY).expand(len(x)))[:, 0]
    return Affine()(x[None], rng.bits(key, ViewStream.SUPPORT)[None])[0]


@dataclass(frozen=True)
class Classifier:
    """A method fit to a support set: images to labels.

    Attributes:
        classes: the labels, sorted.
        predictors: one for each view of the images.
    """

    classes: list[Hashable]
    predictors: Sequence[Predictor]
    pixels: Callable[[Images], Tensor]

    def __call__(self, images: Images) -> list[Hashable]:
        """The label of each image."""
        return [self.classes[place] for place in self.probabilities(images).argmax(1).tolist()]

    def probabilities(self, images: Images) -> Tensor:
        """``(M, N)``, columns as ``classes``.

        Of very many images a few hundred go together, in a fixed random order: where BatchNorm sees the batch, a
        folder sorted by class must not be cut into pieces of one class.
        """
        x = self.pixels(images)
        order = rng.bits(rng.key(FixedSeed.QUERY_ORDER), torch.arange(len(x))).argsort()
        parts = x[order].tensor_split(-(-len(x) // AT_ONCE)) if len(x) else ()
        with torch.no_grad():
            scores = [torch.stack([*self._views(part)]).mean(0) for part in parts]
        probabilities = torch.empty(len(x), len(self.classes))
        if scores:
            probabilities[order] = torch.cat(scores).float()
        return probabilities

    def _views(self, x: Tensor) -> Iterator[Tensor]:
        for view, predictor in enumerate(self.predictors):
            yield predictor(_view(x, view, together=True)).logits.softmax(1)
