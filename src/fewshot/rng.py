"""Make random numbers from keys and counters.

Every number is a pure function of its key and counters. The same numbers come on any device and under ``vmap``. With a
stateful generator a task would depend on all earlier draws: on the batch size, on the number of processes, on the step
where a run was resumed. Here every number is a hash of (key, counters), in the manner of Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3" (SC 2011), with the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as
the hash.
"""

from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)
_WORD = (1 << 64) - 1


def _mix(x: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser to int64.

    Products wrap around, and shifts are logical.
    """
    x = _fold(x, 30, 0x3FFFFFFFF).mul_(_FIRST)
    x = _fold(x, 27, 0x1FFFFFFFFF).mul_(_SECOND)
    return _fold(x, 31, 0x1FFFFFFFF)


def _fold(x: Tensor, shift: int, mask: int) -> Tensor:
    """Combine ``x`` with its logical shift.

    The result is ``x ^ (x >> shift)``, with one allocation.
    """
    return (x >> shift).bitwise_and_(mask).bitwise_xor_(x)


def _mix_number(x: int) -> int:
    """Return ``_mix`` of one Python number.

    As a tensor the number would cost the time of thousands.
    """
    x &= _WORD
    x = ((x ^ (x >> 30)) * _FIRST) & _WORD
    x = ((x ^ (x >> 27)) * _SECOND) & _WORD
    x ^= x >> 31
    return x - (1 << 64) if x >> 63 else x


@dataclass(frozen=True)
class Mixed:
    """Hold hashed counters for many keys."""

    value: Tensor

    @classmethod
    def from_range(cls, n: int, device: torch.device) -> "Mixed":
        """Hash the counters 0 to n - 1."""
        return cls(_mix(torch.arange(n, device=device) + _GOLDEN))

    def __getitem__(self, index: Tensor | slice | tuple[EllipsisType, None]) -> "Mixed":
        return Mixed(self.value.take(index) if isinstance(index, Tensor) else self.value[index])


Counter = Tensor | int | Mixed


def bits(key: Tensor, *counters: Counter) -> Tensor:
    """Return 64 random bits as int64.

    ``key`` and ``counters`` broadcast against each other.
    """
    for counter in counters:
        if isinstance(counter, Mixed):
            mixed: Tensor | int = counter.value
        else:
            mixed = _mix_number(counter + _GOLDEN) if isinstance(counter, int) else _mix(counter + _GOLDEN)
        key = _mix((key ^ mixed).add_(_GOLDEN))
    return key


def key(seed: int, *, device: torch.device | str | None = None) -> Tensor:
    """Return the root key of a seed.

    The key is an int64 scalar.
    """
    return torch.tensor(_mix_number(_mix_number(seed + _GOLDEN) + _GOLDEN), device=device)


def uniform(key: Tensor, *counters: Counter) -> Tensor:
    """Return uniform random numbers in (0, 1).

    The interval is open. Numbers are float64, of 53 bits each.
    """
    return (((bits(key, *counters) >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53


def normal(key: Tensor, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """Return standard normal random numbers.

    The numbers have ``shape`` and the default dtype; ``key`` is a scalar. The inverse of the normal distribution
    function is applied to uniform numbers. Streams are independent.
    """
    size = int(torch.Size(shape).numel())
    numbers = uniform(key, stream, torch.arange(size, device=key.device))
    normals: Tensor = torch.special.ndtri(numbers)
    return normals.to(torch.get_default_dtype()).reshape(shape)
