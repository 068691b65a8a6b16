"""The losses over all pairs, from their formulas; and what they cannot be."""

import pytest
import torch
from scipy.special import logsumexp

from fewshot.engines import VmapEngine
from fewshot.errors import UserError
from fewshot.methods import SoftKMeans
from fewshot.methods.n_pair import LOSSES
from fewshot.networks import conv4
from methods_table import baseline, metagan, n_pair, objective, protonet, reptile

pytestmark = pytest.mark.usefixtures("float64")


def by_hand(loss: str, s, labels) -> float:
    terms = []
    for i, own in enumerate(labels):
        positives = [p for p, label in enumerate(labels) if label == own and p != i]
        negatives = [n for n, label in enumerate(labels) if label != own]
        if loss == "nca":
            others = [j for j in range(len(labels)) if j != i]
            terms.append(logsumexp(s[i, others]) - logsumexp(s[i, positives]))
        else:
            terms += [logsumexp([0.0, *(s[i, n] - s[i, p] for n in negatives)]) for p in positives]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_losses_are_their_formulas(loss):
    torch.manual_seed(0)
    labels, s = torch.tensor([0, 1, 2, 1, 0, 2, 0, 1, 2]), 3 * torch.randn(9, 9)
    assert float(LOSSES[loss](s, labels)) == pytest.approx(by_hand(loss, s.numpy(), labels.tolist()), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_two_images_of_each_class_make_a_one_shot_task_of_each_image(loss):
    """With one other image of its class, both losses are cross-entropy over all other images."""
    torch.manual_seed(0)
    s, labels = torch.randn(8, 8), torch.arange(4).repeat(2)
    logits = s.masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(8).roll(4))
    torch.testing.assert_close(LOSSES[loss](s, labels), wanted)


def test_the_objective_is_of_all_images_of_the_task_in_one_pass(episodes):
    method, task = n_pair(VmapEngine(), scale=0.3), episodes[0]
    x = torch.cat([task.support_x, task.query_x]).double()
    labels = torch.cat([task.support_y, task.query_y])
    with torch.no_grad():
        features = method.backbone(x)
        ours = objective(method, episodes[:1].with_tensors({n: v.double() for n, v in images(episodes[:1])}))
    s = -0.3 * torch.cdist(features, features).square()
    assert float(ours) == pytest.approx(by_hand("n_pair", s.numpy(), labels.tolist()), rel=1e-9)


def images(episodes):
    return [(name, value) for name, value in episodes.tensors().items() if name.endswith("_x")]


def test_it_is_tested_as_a_prototypical_network(episodes):
    method, host = n_pair(VmapEngine(), scale=0.3).eval(), protonet(VmapEngine(), scale=0.3).eval()
    host.load_state_dict(method.state_dict())
    assert torch.equal(method.logits(episodes), host.logits(episodes))


def test_scale_multiplies_squared_distances_and_begins_that_of_cosines(episodes):
    method = protonet(VmapEngine()).eval()
    plain = method.logits(episodes)
    method.scale = 0.25
    torch.testing.assert_close(method.logits(episodes), 0.25 * plain)
    assert float(protonet(VmapEngine(), distance="cosine", scale=4).log_scale.exp()) == pytest.approx(4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "triplet"}, "method.loss=triplet: choose one of n_pair, nca"),
        ({"scale": 0}, "method.scale=0: must be above 0, or null"),
        ({"refinement": SoftKMeans(steps=1)}, "method.refinement: .* choose method=protonet"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        n_pair(VmapEngine(), **options)


@pytest.mark.parametrize("host", [n_pair, baseline, reptile])
def test_a_method_with_a_training_loss_of_its_own_is_no_host_of_metagan(host):
    with pytest.raises(UserError, match="is not trained by the loss of a query set: it cannot be the host of MetaGAN"):
        metagan(host, VmapEngine())


def test_unshuffled_images_are_the_pixels_of_each_square_as_channels():
    torch.manual_seed(0)
    fine, coarse = conv4(1, 16, width=3, depth=2, unshuffle=2), conv4(4, 8, width=3, depth=2)
    coarse.load_state_dict(dict(shifted(fine)))
    x = torch.rand(5, 1, 16, 16)
    squares = torch.cat([x[:, :, down::2, right::2] for down in (0, 1) for right in (0, 1)], dim=1)
    torch.testing.assert_close(fine(x), coarse(squares))
    assert fine.shape == coarse.shape


def shifted(network):
    """The state, numbered as without a first layer."""
    for name, value in network.state_dict().items():
        _, number, *rest = name.split(".")
        yield ".".join(["layers", str(int(number) - 1), *rest]), value


def test_a_side_that_cannot_be_unshuffled_is_refused():
    with pytest.raises(ValueError, match="unshuffle=3: must be a whole number that divides the image's side, 28"):
        conv4(1, 28, unshuffle=3)
