"""Bound the memory of passes through a backbone."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from fewshot.methods import Method
from fewshot.networks import Backbone
from fewshot.networks.norm_layers import batch_norms

AT_ONCE = 300  # images in one pass
PASS = 1000 * 28**2  # pixels of a channel in one pass of a backbone, if more than AT_ONCE images


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
