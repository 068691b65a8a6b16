"""Random numbers as a pure function of a key and counters, on any device and under ``vmap``.

A generator with state makes what a task sees depend on what was drawn before it: on the batch
size, on the number of processes, on where a run was resumed. Here every number is a hash of
(key, counters), in the manner of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
(SC 2011), with the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) as the hash.
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
    """SplitMix64's finaliser on int64, whose products wrap around; shifts made logical by a mask."""
    x = _fold(x, 30, 0x3FFFFFFFF).mul_(_FIRST)
    x = _fold(x, 27, 0x1FFFFFFFFF).mul_(_SECOND)
    return _fold(x, 31, 0x1FFFFFFFF)


def _fold(x: Tensor, shift: int, mask: int) -> Tensor:
    """``x ^ (x >> shift)``, in one new piece of memory."""
    return (x >> shift).bitwise_and_(mask).bitwise_xor_(x)


def _mix_number(x: int) -> int:
    """``_mix`` of one number: a tensor of it would cost as much time as one of thousands."""
    x &= _WORD
    x = ((x ^ (x >> 30)) * _FIRST) & _WORD
    x = ((x ^ (x >> 27)) * _SECOND) & _WORD
    x ^= x >> 31
    return x - (1 << 64) if x >> 63 else x


@dataclass(frozen=True)
class Mixed:
    """Counters that have been hashed, for the keys that meet them again and again."""

    value: Tensor

    @classmethod
    def first(cls, n: int, device: torch.device) -> "Mixed":
        """The counters 0 to n - 1."""
        return cls(_mix(torch.arange(n, device=device) + _GOLDEN))

    def __getitem__(self, place: Tensor | slice | tuple[EllipsisType, None]) -> "Mixed":
        return Mixed(self.value.take(place) if isinstance(place, Tensor) else self.value[place])


Counter = Tensor | int | Mixed


def bits(key: Tensor, *counters: Counter) -> Tensor:
    """64 random bits as int64 for ``key`` and ``counters``, which broadcast against each other."""
    for counter in counters:
        if isinstance(counter, Mixed):
            mixed: Tensor | int = counter.value
        else:
            mixed = _mix_number(counter + _GOLDEN) if isinstance(counter, int) else _mix(counter + _GOLDEN)
        key = _mix((key ^ mixed).add_(_GOLDEN))
    return key


def key(seed: int, *, device: torch.device | str | None = None) -> Tensor:
    """The root key of a seed: an int64 scalar."""
    return torch.tensor(_mix_number(_mix_number(seed + _GOLDEN) + _GOLDEN), device=device)


def uniform(key: Tensor, *counters: Counter) -> Tensor:
    """float64 in the open interval (0, 1), 53 bits each."""
    return (((bits(key, *counters) >> 11) & ((1 << 53) - 1)).double() + 0.5) * 2.0**-53


def normal(key: Tensor, shape: tuple[int, ...], stream: int = 0) -> Tensor:
    """Standard normal numbers of ``shape`` in the default dtype, for a scalar ``key``.

    The inverse of the normal distribution function is applied to uniform numbers; one
    ``stream`` is independent of the next.
    """
    size = int(torch.Size(shape).numel())
    numbers = uniform(key, stream, torch.arange(size, device=key.device))
    return torch.special.ndtri(numbers).to(torch.get_default_dtype()).reshape(shape)
