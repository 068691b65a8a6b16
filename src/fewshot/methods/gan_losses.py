"""Compute the loss terms of MetaGAN from logits."""

import torch.nn.functional as F
from torch import Tensor


def real_logit(logits: Tensor, fake_logit: Tensor | float = 0.0) -> Tensor:
    """Return the log-odds that inputs are real.

    The output is ``(M,)``; the outcomes are N classes and one fake outcome.

    With logits ``l`` ``(M, N)`` and the fake logit ``f``: p(k) = e^{l_k} / (e^f + sum_i e^{l_i}), so
    p(real) / p(fake) = sum_i e^{l_i} / e^f (Salimans et al. 2016; Zhang et al. 2018, MetaGAN).
    """
    return logits.logsumexp(dim=-1) - fake_logit


def real_loss(real: Tensor) -> Tensor:
    """Return the mean of -log p(real) for log-odds ``(M,)``."""
    return F.softplus(-real).mean()


def fake_loss(real: Tensor) -> Tensor:
    """Return the mean of -log p(fake) for log-odds ``(M,)``."""
    return F.softplus(real).mean()


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """Return the squared difference of mean features.

    The features are of real and of generated images. Averaged over the D features of ``(M, D)`` and ``(M', D)``
    (Salimans et al. 2016).
    """
    return (real.mean(0) - fake.mean(0)).square().mean()
