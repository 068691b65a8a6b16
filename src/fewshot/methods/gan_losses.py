"""Loss terms as pure functions of logits."""

import torch.nn.functional as F
from torch import Tensor


def real_logit(logits: Tensor, fake_logit: Tensor | float = 0.0) -> Tensor:
    """The log-odds ``(M,)`` that an input is real, under a softmax of N classes and one fake outcome.

    With logits ``l`` ``(M, N)`` and the fake logit ``f``: p(k) = e^{l_k} / (e^f + sum_i e^{l_i}), so
    p(real) / p(fake) = sum_i e^{l_i} / e^f (Salimans et al. 2016; Zhang et al. 2018, MetaGAN).
    """
    return logits.logsumexp(dim=-1) - fake_logit


def real_loss(real: Tensor) -> Tensor:
    """Mean of -log p(real) for log-odds ``(M,)``."""
    return F.softplus(-real).mean()


def fake_loss(real: Tensor) -> Tensor:
    """Mean of -log p(fake) for log-odds ``(M,)``."""
    return F.softplus(real).mean()


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """Squared difference of the mean features of real ``(M, D)`` and generated ``(M', D)`` images.

    Averaged over the D features (Salimans et al. 2016).
    """
    return (real.mean(0) - fake.mean(0)).square().mean()
