"""Take one meta-step of MAML.

The contenders, ours and learn2learn's, start from the same weights. The peer follows learn2learn's own
``examples/vision/maml_omniglot.py``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.contender import device
from benchmarks.rounds import Result
from fewshot.engines import VmapEngine
from fewshot.engines.learn2learn import load_learn2learn
from fewshot.episode import Episode
from fewshot.methods import MAML
from fewshot.networks import conv4

Weights = dict[str, Tensor]
WIDTH = 64
DEPTH = 4


@dataclass(frozen=True)
class Inner:
    """Hold inner-loop settings and the seed of weights."""

    ways: int
    steps: int = 1
    second_order: bool = True
    rate: float = 0.4
    seed: int = 0


def network(inner: Inner, image_size: int = 28, width: int = WIDTH) -> MAML:
    """Build our MAML with the contenders' common weights."""
    torch.manual_seed(inner.seed)
    return MAML(
        backbone=conv4(1, image_size, width, DEPTH),
        ways=inner.ways,
        inner_rate=inner.rate,
        steps=inner.steps,
        test_steps=inner.steps,
        second_order=inner.second_order,
        engine=VmapEngine(),
        bn="transductive",
    )


class Ours:
    """Train ``fewshot.methods.MAML`` as ``run.py`` does, without Lightning."""

    def __init__(self, inner: Inner, image_size: int = 28, width: int = WIDTH, dtype: torch.dtype = torch.float32):
        self.method = network(inner, image_size, width).to(device(), dtype).train()

    def step(self, episodes: Episode) -> dict[str, Tensor]:
        """Compute gradients; return losses and accuracies ``(B,)``.

        The gradients are of the mean over tasks.
        """
        self.method.zero_grad()
        parts = []
        for chunk in self.method.chunks(episodes):
            terms = self.method.engine.map_tasks(self.method.task_terms, chunk)
            terms["objective"].sum().backward()
            parts.append({name: terms[name].detach() for name in ("loss", "accuracy")})
        average(self.method, len(episodes))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def result(self, episodes: Episode) -> Result:
        """Return loss, accuracy and gradient of a step."""
        return _result(self.step(episodes), self.gradients())

    def gradients(self) -> Weights:
        return {name: p.grad for name, p in self.method.classifier.named_parameters() if p.grad is not None}

    def weights(self) -> Weights:
        return {name: p.detach() for name, p in self.method.classifier.named_parameters()}


class Peer:
    """Train learn2learn's MAML in a loop.

    ``learn2learn.algorithms.MAML`` loops over tasks, on learn2learn's own ``OmniglotCNN``.
    """

    def __init__(self, inner: Inner, image_size: int = 28, width: int = WIDTH, dtype: torch.dtype = torch.float32):
        assert image_size == 28, "OmniglotCNN takes no other images"
        learn2learn = load_learn2learn()
        net = learn2learn.vision.models.OmniglotCNN(inner.ways, hidden_size=width, layers=DEPTH)
        start = {name: p.detach() for name, p in network(inner, image_size, width).classifier.named_parameters()}
        ours = dict(zip(_peer_names(start), start, strict=True))
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                parameter.copy_(start[ours[name]])
        self.names = ours
        self.net = net.to(device(), dtype)
        self.maml = learn2learn.algorithms.MAML(self.net, lr=inner.rate, first_order=not inner.second_order)
        self.steps = inner.steps
        self.loss = nn.CrossEntropyLoss(reduction="mean")

    def step(self, episodes: Episode) -> dict[str, Tensor]:
        """Compute the same as ``Ours.step``."""
        self.maml.zero_grad()
        scores = [self.task(episodes[task]) for task in range(len(episodes))]
        average(self.maml, len(episodes))
        losses, accuracies = zip(*scores, strict=True)
        return {"loss": torch.tensor(losses, dtype=torch.float64), "accuracy": torch.tensor(accuracies)}

    def task(self, episode: Episode) -> tuple[float, float]:
        """Adapt to one task and add its outer gradient."""
        learner = self.maml.clone()
        for _ in range(self.steps):
            learner.adapt(self.loss(learner(episode.support_x), episode.support_y))
        predictions = learner(episode.query_x)
        error = self.loss(predictions, episode.query_y)
        right = (predictions.argmax(dim=1) == episode.query_y).sum().float() / len(episode.query_y)
        error.backward()
        return error.item(), right.item()

    def result(self, episodes: Episode) -> Result:
        return _result(self.step(episodes), self.gradients())

    def gradients(self) -> Weights:
        return {self.names[name]: p.grad for name, p in self.net.named_parameters() if p.grad is not None}

    def weights(self) -> Weights:
        """Return the weights by our names."""
        return {self.names[name]: p.detach() for name, p in self.net.named_parameters()}


def average(network: nn.Module, tasks: int) -> None:
    """Divide gradients by the number of tasks.

    Gradients of the sum over tasks become gradients of the mean.
    """
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(1.0 / tasks)


def _peer_names(ours: Weights) -> list[str]:
    """Return learn2learn's names of our parameters.

    The order is ours: convolution, norm, ..., head.
    """
    blocks = [f"base.{n}.{part}.{kind}" for n in range(DEPTH) for part in ("conv", "normalize") for kind in _KINDS]
    return [*blocks, *(f"classifier.{kind}" for kind in _KINDS)][: len(ours)]


_KINDS = ("weight", "bias")


def _result(terms: dict[str, Tensor], gradients: Weights) -> Result:
    flat = torch.cat([gradients[name].flatten() for name in sorted(gradients)])
    arrays = {"gradient": flat, "loss": terms["loss"], "accuracy": terms["accuracy"]}
    return {name: value.cpu().numpy().astype(np.float64) for name, value in arrays.items()}


def random_episodes(
    tasks: int, ways: int, shots: int, queries: int, size: int = 28, dtype: torch.dtype = torch.float32
) -> Episode:
    """Make fixed episodes of noise around class patterns."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(tasks, ways, 1, 1, size, size, generator=generator)
    noise = torch.rand(tasks, ways, shots + queries, 1, size, size, generator=generator)
    images = (0.5 * patterns + 0.5 * noise).to(dtype)
    support, query = (part.flatten(1, 2).to(device()) for part in images.split([shots, queries], dim=2))
    labels = torch.arange(ways, device=device())
    support_y, query_y = (labels.repeat_interleave(n).repeat(tasks, 1) for n in (shots, queries))
    number = torch.arange(tasks, device=device())
    return Episode(ways, support, support_y, query, query_y, key=number, fingerprint=number)
