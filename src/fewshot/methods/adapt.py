"""Choose the parameters that an inner loop adapts.

- ``all``, ``head``, ``body``: the parameters of the whole classifier, of its last layer, of all other layers.
- ``norm``: scales and shifts of the normalisation layers; ``bias``: all biases (BitFit, Ben Zaken et al. 2022);
  ``lora``: a low-rank change of every linear layer and convolution (Hu et al. 2022), without the grouped and depthwise
  convolutions, whose weights are small. With each of these settings the head adapts too, since a task brings classes
  of its own.

A pretrained network that is ``frozen`` adapts all the same: the outer loop does not train its parameters, so that every
task begins at the pretrained values, while the head and learned rates are trained.

LoRA takes a weight W, flattened to (out, in), to W + B A, with A (rank, in) and B (out, rank). B starts at 0, so that
a task begins at the unadapted network. A is random, the same for every task and every run: A is neither learned nor
saved, and a checkpoint can be tested with any of the settings.

Differs from the paper (Hu et al.): no factor alpha / rank. Rows of A have a length of about 1, so that the first step
is that of gradient descent on W at the same rate, projected onto ``rank`` random directions of its inputs.
"""

import torch
from torch import Tensor, nn

from fewshot import rng
from fewshot.errors import UserError
from fewshot.networks.norm_layers import is_norm

ADAPT = ("all", "head", "body", "norm", "bias", "lora")
Params = dict[str, Tensor]


class AdaptedParameters(nn.Module):
    """Name the adapted tensors and merge their values.

    Adapted values take the place of the network's parameters. Names are ``backbone.*`` and ``head.*``, as in the
    network; with LoRA also ``<weight>.A`` and ``<weight>.B``.

    Args:
        network: a classifier with a ``backbone`` and a ``head``; the object keeps no reference to the network.
        adapt: the setting ``method.adapt``.
        rank: the rank of LoRA.

    Raises:
        UserError: the setting is unknown, or the backbone has no such parameters.
    """

    def __init__(self, network: nn.Module, adapt: str, rank: int = 4) -> None:
        super().__init__()
        if adapt not in ADAPT:
            raise UserError(f"method.adapt={adapt}: choose one of {', '.join(ADAPT)}")
        if rank < 1:
            raise UserError(f"method.rank={rank}: must be at least 1")
        self.rank = rank
        self.low_rank: list[str] = []  # weights that have an A and a B
        self.whole = [name for name, _ in network.named_parameters() if _adapts_whole(adapt, name, network)]
        if adapt == "lora":
            for name, layer in network.get_submodule("backbone").named_modules(prefix="backbone"):
                if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
                    self._add_low_rank(f"{name}.weight", layer.weight.flatten(1).shape[1])
        # Of a backbone without parameters, "all" is the head.
        if adapt not in ("all", "head") and not self.has_backbone:
            raise UserError(f"method.adapt={adapt}, but the backbone has nothing of it: choose another setting")

    def _add_low_rank(self, name: str, inputs: int) -> None:
        key = rng.key(len(self.low_rank))
        a = rng.normal(key, (self.rank, inputs)) / inputs**0.5
        self.register_buffer(_buffer(name), a, persistent=False)
        self.low_rank.append(name)

    @property
    def has_backbone(self) -> bool:
        """Tell whether any adapted tensor is of the backbone."""
        return any(name.startswith("backbone.") for name in (*self.whole, *self.low_rank))

    def initial(self, params: Params) -> Params:
        """Return the initial adapted tensors from network parameters ``params``."""
        fast = {name: params[name] for name in self.whole}
        for name in self.low_rank:
            weight = params[name]
            fast[f"{name}.A"] = self.get_buffer(_buffer(name)).to(weight)
            fast[f"{name}.B"] = weight.new_zeros(len(weight), self.rank)
        return fast

    def merge(self, params: Params, fast: Params) -> Params:
        """Return the network's parameters with adapted tensors ``fast``."""
        replaced = {name: fast[name] for name in self.whole}
        for name in self.low_rank:
            replaced[name] = params[name] + (fast[f"{name}.B"] @ fast[f"{name}.A"]).view(params[name].shape)
        return params | replaced

    def count(self, params: Params) -> int:
        """Return how many numbers adapt."""
        with torch.no_grad():
            return sum(value.numel() for value in self.initial(params).values())


def _adapts_whole(adapt: str, name: str, network: nn.Module) -> bool:
    """Return whether a parameter adapts as a whole."""
    if name.startswith("head."):
        return adapt != "body"
    layer, _, own = name.rpartition(".")
    if adapt == "norm":
        return is_norm(network.get_submodule(layer))
    return adapt in ("all", "body") or (adapt == "bias" and own == "bias")


def _buffer(name: str) -> str:
    """Name the buffer of A without dots.

    A buffer's name may have no dots.
    """
    return name.replace(".", "/")
