"""Fit L2-regularised multinomial logistic regression to its optimum.

The fit minimises, over weights W (N, D) and a bias b (N,),
    sum over images i of cross-entropy(W x_i + b, y_i) + lambda / 2 |W|^2
which is the objective of scikit-learn's ``LogisticRegression`` with C = 1 / lambda; for two classes scikit-learn has
one weight vector, and C = 2 / lambda. The bias is not regularised.

The rows of W lie in the span of the features less their mean, X = U S Q^T. So W = V^T Q^T, and V (R, N) with R at most
the number of images is found by Newton's method on the features U S: the cost hardly depends on D. Conjugate gradients
solve for a step, preconditioned by the diagonal of a curvature that is equal for all images; steps are halved until
the objective falls (Nocedal and Wright, "Numerical optimization", 2006, algorithms 7.1 and 3.1).

All is in double precision. Tasks are solved together, and a finished task does not move while others do.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.errors import UserError
from fewshot.networks.task_axis import tasks_first

TOLERANCE = 1e-9  # of the gradient's norm, relative to the norm at W = 0
ROUNDING = 1e-13  # of one image's gradient, relative to its features
NEWTON_STEPS = 100
SOLVER_STEPS = 200  # of conjugate gradients, in a Newton step
HALVINGS = 12
SUFFICIENT = 1e-4  # part of the promised decrease that a step must reach

Pair = tuple[Tensor, Tensor]  # of V and b, or of a gradient or direction of the same shapes


def fit_logistic(features: Tensor, labels: Tensor, ways: int, regularisation: float) -> Pair:
    """Return weights ``(N, D)`` and bias ``(N,)``.

    The features get no gradient. Under ``vmap`` all tasks are solved together.

    Args:
        features: ``(M, D)``.
        labels: ``(M,)`` in [0, N).
        ways: N.
        regularisation: lambda, above 0.

    Raises:
        UserError: the optimum was not reached.
    """
    weight, bias = _Fit.apply(features.detach(), labels, ways, regularisation)
    return weight, bias


class _Fit(torch.autograd.Function):
    """See all tasks of a ``vmap`` at once, as plain tensors."""

    @staticmethod
    def forward(features: Tensor, labels: Tensor, ways: int, regularisation: float) -> Pair:
        weight, bias = solve(features[None], labels[None], ways, regularisation)
        return weight[0], bias[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, ...], features: Tensor, labels: Tensor, ways: int, regularisation: float
    ) -> tuple[Pair, tuple[int, int]]:
        features, labels = tasks_first(info, dims, features, labels)
        return solve(features, labels, ways, regularisation), (0, 0)


@torch.no_grad()
def solve(features: Tensor, labels: Tensor, ways: int, regularisation: float) -> Pair:
    """Return weights ``(B, N, D)`` and biases ``(B, N)``.

    Args:
        features: ``(B, M, D)``.
        labels: ``(B, M)``.
        ways, regularisation: see ``fit_logistic``.

    Raises:
        UserError: the optimum of a task was not reached, or a feature is not finite.
    """
    x = features.double()
    if not bool(x.isfinite().all()):
        raise UserError("logistic regression: the features of a support set are not finite")
    mean = x.mean(1, keepdim=True)
    u, s, q = _decompose(x - mean)
    problem = _Problem(u * s[:, None], F.one_hot(labels, ways).double(), regularisation)
    v, b = problem.minimise()
    weight = v.mT @ q
    bias = b - (weight @ mean.mT)[..., 0]
    return weight.to(features), bias.to(features)


def _decompose(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular value decomposition of ``(B, M, D)``, the last factor ``(B, R, D)``.

    Many columns are reduced first, which takes a third of the time.
    """
    if x.shape[1] >= x.shape[2]:
        u, s, q = torch.linalg.svd(x, full_matrices=False)
        return u, s, q
    basis, triangle = torch.linalg.qr(x.mT)
    u, s, q = torch.linalg.svd(triangle.mT, full_matrices=False)
    return u, s, q @ basis.mT


class _Problem:
    """Minimise the objectives of B tasks.

    Args:
        z: features ``(B, M, R)`` with mean 0 and orthogonal columns.
        y: labels ``(B, M, N)``, one-hot.
        regularisation: lambda.
    """

    def __init__(self, z: Tensor, y: Tensor, regularisation: float) -> None:
        self.z = z
        self.y = y
        self.regularisation = regularisation
        self.squares = z.square().sum(1)[..., None]  # (B, R, 1)

    def minimise(self) -> Pair:
        """Return V ``(B, R, N)`` and b ``(B, N)``."""
        tasks, images, rank = self.z.shape
        v = self.z.new_zeros(tasks, rank, self.y.shape[-1])
        b = self.z.new_zeros(tasks, self.y.shape[-1])
        gradient = self.gradient(self.z @ v + b[:, None], v)
        enough = TOLERANCE * _norm(gradient) + ROUNDING * images * (1 + self.squares.sum((1, 2))).sqrt()
        for _ in range(NEWTON_STEPS):
            left = ~(_norm(gradient) <= enough)  # not a number is not enough
            if not left.any():
                return v, b
            logits = self.z @ v + b[:, None]
            step = self.newton_step(logits.softmax(-1), gradient)
            length = torch.where(left, self.length(logits, v, gradient, step), 0.0)[:, None]
            v = v + length[..., None] * step[0]
            b = b + length * step[1]
            gradient = self.gradient(self.z @ v + b[:, None], v)
        return self._checked((v, b), _norm(gradient), enough)

    def _checked(self, found: Pair, norm: Tensor, enough: Tensor) -> Pair:
        missed = ~(norm <= enough)
        if not missed.any():
            return found
        worst = int((norm / enough).nan_to_num(torch.inf).argmax())
        raise UserError(
            f"logistic regression did not reach its optimum in {int(missed.sum())} of {len(norm)} tasks after "
            f"{NEWTON_STEPS} steps (norm of the gradient {float(norm[worst]):.1e}, wanted {float(enough[worst]):.1e}): "
            "raise method.regularisation, or set method.normalise=true"
        )

    def objective(self, logits: Tensor, v: Tensor) -> Tensor:
        """Return the objectives.

        Logits are ``(..., B, M, N)``, weights ``(..., B, R, N)``, objectives ``(..., B)``.
        """
        losses = logits.logsumexp(-1) - (self.y * logits).sum(-1)
        return losses.sum(-1) + self.regularisation / 2 * v.square().sum((-2, -1))

    def gradient(self, logits: Tensor, v: Tensor) -> Pair:
        """Return the gradient by V and b."""
        errors = logits.softmax(-1) - self.y
        return self.z.mT @ errors + self.regularisation * v, errors.sum(1)

    def curvature(self, p: Tensor, direction: Pair) -> Pair:
        """Return the Hessian, at probabilities ``p``, times a direction."""
        change = p * (self.z @ direction[0] + direction[1][:, None])
        change = change - p * change.sum(-1, keepdim=True)
        return self.z.mT @ change + self.regularisation * direction[0], change.sum(1)

    def newton_step(self, p: Tensor, gradient: Pair) -> Pair:
        """Solve for the Newton step by conjugate gradients.

        The precision grows near the optimum, so that the convergence is faster than linear.
        """
        # Between 0 for sure predictions and 1 / N: the mean curvature of an image's loss.
        mean = ((1 - p.square().sum(-1)).mean(1) / (p.shape[-1] - 1)).clamp(min=1e-12)[:, None]
        by_v = 1 / (self.squares * mean[..., None] + self.regularisation)
        by_b = 1 / (p.shape[1] * mean)
        residual = (-gradient[0], -gradient[1])
        first = _norm(residual)
        enough = first * first.sqrt().clamp(max=0.1)
        scaled = (by_v * residual[0], by_b * residual[1])
        direction = scaled
        step = (torch.zeros_like(gradient[0]), torch.zeros_like(gradient[1]))
        product = _dot(residual, scaled)
        for _ in range(SOLVER_STEPS):
            left = _norm(residual) > enough
            if not left.any():
                break
            bent = self.curvature(p, direction)
            length = torch.where(left, product / _dot(direction, bent), 0.0)
            step = _add(step, length, direction)
            residual = _add(residual, -length, bent)
            scaled = (by_v * residual[0], by_b * residual[1])
            before = product
            product = torch.where(left, _dot(residual, scaled), before)
            direction = _add(scaled, torch.where(left, product / before, 0.0), direction)
        return step

    def length(self, logits: Tensor, v: Tensor, gradient: Pair, step: Pair) -> Tensor:
        """Return the largest of 1, 1/2, 1/4, ... that lowers the objective enough."""
        lengths = 0.5 ** torch.arange(HALVINGS + 1, dtype=v.dtype, device=v.device)
        change = self.z @ step[0] + step[1][:, None]
        wide = lengths[:, None, None, None]
        tried = self.objective(logits + wide * change, v + wide * step[0])  # (lengths, B)
        start = self.objective(logits, v)
        allowed = start + SUFFICIENT * lengths[:, None] * _dot(gradient, step) + 1e-14 * start.abs()
        return torch.where(tried <= allowed, lengths[:, None], lengths[-1]).amax(0)


def _dot(a: Pair, b: Pair) -> Tensor:
    return (a[0] * b[0]).sum((1, 2)) + (a[1] * b[1]).sum(1)


def _norm(a: Pair) -> Tensor:
    return _dot(a, a).sqrt()


def _add(a: Pair, factor: Tensor, b: Pair) -> Pair:
    """Return a + factor * b, with a factor for each task."""
    return a[0] + factor[:, None, None] * b[0], a[1] + factor[:, None] * b[1]
