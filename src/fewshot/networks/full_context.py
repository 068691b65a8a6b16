"""Full context embeddings of matching networks: the embedding of an image depends on the whole support set."""

import torch
from torch import Tensor, nn


class LSTMCell(nn.Module):
    """One step of a long short-term memory, in linear layers: ``nn.LSTM`` has no batching rule for ``vmap``.

    Inputs ``x (..., inputs)``, state ``h (..., hidden)`` and cell ``c (..., features)`` to the next output
    and cell ``(..., features)``. The gates are in torch's order: input, forget, cell, output.
    """

    def __init__(self, inputs: int, hidden: int, features: int) -> None:
        super().__init__()
        self.input, self.hidden = nn.Linear(inputs, 4 * features), nn.Linear(hidden, 4 * features, bias=False)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (self.input(x) + self.hidden(h)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class FullContext(nn.Module):
    """Embeddings of a support set ``(N*K, D)`` and of queries ``(M, D)``, each in the light of the support set.

    Vinyals et al. 2016, appendix: g(x_i, S) by a bidirectional LSTM (A.2), f(x, S) by an LSTM that
    attends to the g(x_i) (A.1, eq. 2 to 5). Both add the embedding they begin with. The support set is
    read as a sequence, so its order matters; queries do not see each other.

    Args:
        features: D.
        steps: of processing, for each query.
    """

    def __init__(self, features: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.ahead, self.back = LSTMCell(features, features, features), LSTMCell(features, features, features)
        self.attend = LSTMCell(features, 2 * features, features)

    def forward(self, support: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
        support = support + _read(self.ahead, support) + _read(self.back, support.flip(0)).flip(0)
        h = c = torch.zeros_like(queries)
        for _ in range(self.steps):
            read = (h @ support.T).softmax(-1) @ support
            h, c = self.attend(queries, torch.cat([h, read], dim=-1), c)
            h = h + queries
        return support, h


def _read(cell: LSTMCell, sequence: Tensor) -> Tensor:
    """The outputs ``(T, D)`` of ``cell`` along a sequence ``(T, D)``."""
    h = c = torch.zeros_like(sequence[0])
    outputs = []
    for x in sequence.unbind(0):
        h, c = cell(x, h, c)
        outputs.append(h)
    return torch.stack(outputs)
