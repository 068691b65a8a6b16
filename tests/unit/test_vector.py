"""The encoder and generator of vectors."""

import torch

from fewshot.networks import VectorEncoder, VectorGenerator


def test_a_set_is_encoded_whatever_its_order():
    torch.manual_seed(0)
    encoder, x = VectorEncoder(2, 1, width=8, features=5), torch.randn(6, 2, 1, 1)
    assert encoder(x).shape == (5,)
    torch.testing.assert_close(encoder(x), encoder(x.flip(0)))
    assert not torch.allclose(encoder(x), encoder(x + 1))


def test_what_is_generated_depends_on_noise_and_task():
    torch.manual_seed(0)
    generator, z, task = VectorGenerator(3, 2, condition=5, noise=4, width=8), 5 * torch.randn(7, 4), torch.randn(5)
    made = generator(z, task).detach()
    assert made.shape == (7, 3, 2, 2)
    assert float(made.abs().max()) <= 1
    assert made.std(0).min() > 0
    assert not torch.allclose(made, generator(z, task + 1))
    torch.testing.assert_close(made[2:4], generator(z[2:4], task))  # one image does not depend on the others
