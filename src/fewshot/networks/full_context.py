"""Embed images in the context of support sets."""

import torch
from torch import Tensor, nn


class LSTMCell(nn.Module):
    """Compute one step of an LSTM cell.

    ``nn.LSTM`` has no rule for ``vmap``.

    Inputs ``x (..., inputs)``, state ``h (..., hidden)`` and cell ``c (..., features)`` to the next output
    and cell ``(..., features)``. The gates are in torch's order: input, forget, cell, output.
    """

    def __init__(self, inputs: int, hidden: int, features: int) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, 4 * features)
        self.hidden = nn.Linear(hidden, 4 * features, bias=False)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next output and cell."""
        i, f, g, o = (self.input(x) + self.hidden(h)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class FullContext(nn.Module):
    """Change embeddings by the support set.

    Support images are ``(N*K, D)``, queries ``(M, D)``.

    Vinyals et al. 2016, appendix: g(x_i, S) by a bidirectional LSTM (A.2), f(x, S) by an LSTM that
    attends to the g(x_i) (A.1, eq. 2 to 5). Both add the first embedding. The support set is
    read as a sequence, so its order matters; queries do not depend on each other.

    Args:
        features: D.
        steps: attention steps for each query.
    """

    def __init__(self, features: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.ahead = LSTMCell(features, features, features)
        self.back = LSTMCell(features, features, features)
        self.attend = LSTMCell(features, 2 * features, features)

    def forward(self, support: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return support and query embeddings in their context."""
        support = support + _lstm_outputs(self.ahead, support) + _lstm_outputs(self.back, support.flip(0)).flip(0)
        h = c = torch.zeros_like(queries)
        for _ in range(self.steps):
            read = (h @ support.T).softmax(-1) @ support
            h, c = self.attend(queries, torch.cat([h, read], dim=-1), c)
            h = h + queries
        return support, h


def _lstm_outputs(cell: LSTMCell, sequence: Tensor) -> Tensor:
    """Return outputs ``(T, D)`` of ``cell`` along a sequence."""
    h = c = torch.zeros_like(sequence[0])
    outputs = []
    for x in sequence.unbind(0):
        h, c = cell(x, h, c)
        outputs.append(h)
    return torch.stack(outputs)
