"""Random numbers that are a function of their key."""

import torch
from scipy import stats

from fewshot import rng


def test_the_hash_is_splitmix64():
    """First outputs of SplitMix64 from state 0, as published with its reference implementation."""
    golden = 0x9E3779B97F4A7C15
    states = torch.tensor([(n * golden + (1 << 63)) % (1 << 64) - (1 << 63) for n in (1, 2, 3)])
    assert [x & (1 << 64) - 1 for x in rng._mix(states).tolist()] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F,
    ]  # fmt: skip


def test_uniform_and_normal_pass_kolmogorov_smirnov():
    key = rng.key(7)
    assert stats.kstest(rng.uniform(key, torch.arange(100_000)).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(rng.normal(key, (100_000,)).numpy(), "norm").pvalue > 1e-3


def test_keys_and_streams_are_uncorrelated():
    numbers = torch.stack([rng.normal(rng.key(seed), (50_000,), stream) for seed in (0, 1) for stream in (0, 1)])
    off_diagonal = numbers.corrcoef() - torch.eye(4)
    assert float(off_diagonal.abs().max()) < 4 / 50_000**0.5


def test_a_number_does_not_depend_on_how_many_are_drawn():
    key = rng.key(1)
    assert torch.equal(rng.normal(key, (10,))[:4], rng.normal(key, (4,)))


def test_vmap_gives_each_task_its_own():
    keys = rng.bits(rng.key(0), torch.arange(3))
    together = torch.func.vmap(lambda k: rng.normal(k, (2, 5), 1))(keys)
    assert torch.equal(together, torch.stack([rng.normal(k, (2, 5), 1) for k in keys]))
