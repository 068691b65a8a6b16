"""Formulas written out by hand: prototypes, the N+1 softmax of MetaGAN, nearest neighbours."""

import pytest
import torch
import torch.nn.functional as F

from fewshot.engines import VmapEngine
from fewshot.methods import NearestNeighbour
from fewshot.methods.gan_losses import fake_loss, feature_matching, real_logit, real_loss
from fewshot.methods.protonet import prototypes, squared_distances
from methods_table import build, maml, metagan, protonet

pytestmark = pytest.mark.usefixtures("float64")


def test_prototypes_and_distances_by_hand():
    features = torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 6.0], [-1.0, 0.0]])
    centres = prototypes(features, torch.tensor([0, 1, 0, 1]), 2)
    assert centres.tolist() == [[3.0, 4.0], [1.0, 0.0]]
    assert squared_distances(torch.tensor([[0.0, 0.0], [3.0, 1.0]]), centres).tolist() == [[25.0, 1.0], [9.0, 5.0]]


def test_protonet_logits_are_minus_squared_distances_to_class_means(episodes):
    method = build("protonet", VmapEngine()).eval()
    task = episodes[0]
    support_x, query_x = task.support_x.double(), task.query_x.double()
    with torch.no_grad():
        method.bn = "transductive"
        features = method.backbone(torch.cat([support_x, query_x]))
        ours = method.fit_task(task.__class__(**vars(task) | {"support_x": support_x}))(query_x).logits
    support, query = features[:10], features[10:]
    wanted = [[-float((q - support[task.support_y == c].mean(0)).square().sum()) for c in range(5)] for q in query]
    torch.testing.assert_close(ours, torch.tensor(wanted))


def test_cosine_logits_are_scaled_cosines(episodes):
    method = build("protonet_cosine", VmapEngine()).eval()
    logits = method.logits(episodes)
    assert float(logits.detach().abs().max()) <= float(method.log_scale.detach().exp()) + 1e-9


@pytest.mark.parametrize("fake", [0.0, 1.7])
def test_real_and_fake_terms_are_the_softmax_over_n_plus_1_outcomes(fake):
    torch.manual_seed(0)
    logits = 3 * torch.randn(11, 5)
    full = torch.cat([logits, torch.full((11, 1), fake)], dim=1).softmax(1)
    real = real_logit(logits, fake)
    torch.testing.assert_close(real_loss(real), -(1 - full[:, 5]).log().mean())
    torch.testing.assert_close(fake_loss(real), -full[:, 5].log().mean())
    # Given that it is real, the N-way softmax is what it was.
    torch.testing.assert_close(full[:, :5] / full[:, :5].sum(1, keepdim=True), logits.softmax(1))


def test_feature_matching_by_hand():
    real, fake = torch.tensor([[1.0, 3.0], [3.0, 5.0]]), torch.tensor([[0.0, 1.0]])
    assert float(feature_matching(real, fake)) == (2.0**2 + 3.0**2) / 2


@pytest.mark.parametrize("form", ["fixed", "learned"])
@pytest.mark.parametrize("generator_loss", ["nonsaturating", "feature_matching"])
def test_metagan_terms_by_hand(episodes, form, generator_loss):
    """The terms of one task, from an N+1 softmax over the logits of the adapted classifier."""
    torch.manual_seed(0)
    method = metagan(maml, VmapEngine(), fake_logit=form, generator_loss=generator_loss)
    method.train()
    task = episodes[0]
    task = task.__class__(**vars(task) | {"support_x": task.support_x.double(), "query_x": task.query_x.double()})
    terms = method.task_terms(task)
    predict = method.fit_task(task)
    real, fakes = predict(task.query_x), method.generate(task, None, stream=1)
    fake = predict(fakes)

    def outcomes(prediction):
        last = torch.zeros(len(prediction.logits), 1) if form == "fixed" else method.fake_head(prediction.features)
        return torch.cat([prediction.logits, last], dim=1).softmax(1)

    p_real, p_fake = outcomes(real), outcomes(fake)
    torch.testing.assert_close(terms["ce_loss"], F.cross_entropy(real.logits, task.query_y))
    torch.testing.assert_close(terms["real_loss"], -(1 - p_real[:, 5]).log().mean())
    torch.testing.assert_close(terms["fake_loss"], -p_fake[:, 5].log().mean())
    generator = (
        -(1 - p_fake[:, 5]).log().mean()
        if generator_loss == "nonsaturating"
        else (real.features.mean(0) - fake.features.mean(0)).square().mean()
    )
    torch.testing.assert_close(terms["generator_loss"], generator)
    torch.testing.assert_close(terms["loss"], terms["ce_loss"] + 0.5 * terms["real_loss"] + 0.5 * terms["fake_loss"])
    torch.testing.assert_close(terms["objective"], terms["loss"] + terms["generator_loss"])


def test_inner_terms_enter_at_their_step(episodes):
    """With fakes from a step that is never reached, adaptation is the host's; before it, it is not."""
    task = episodes[0]
    task = task.__class__(**vars(task) | {"support_x": task.support_x.double(), "query_x": task.query_x.double()})
    logits = []
    for start in (0, 1, 2):
        torch.manual_seed(0)
        method = metagan(maml, VmapEngine(), inner_from=start).train()
        logits.append(method.predictor(task)(task.query_x).logits)
    host = method.host.predictor(task)(task.query_x).logits
    assert torch.equal(logits[2], host)
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[1], host)


def test_fakes_depend_on_the_task_alone(episodes):
    method = metagan(protonet, VmapEngine())
    one = method.generate(episodes[1], 3, stream=0)
    assert torch.equal(one, method.generate(episodes[1], 3, stream=0))
    assert not torch.allclose(one, method.generate(episodes[1], 3, stream=1))
    assert not torch.allclose(one, method.generate(episodes[2], 3, stream=0))


def test_nearest_neighbour_by_hand(episodes):
    logits = NearestNeighbour(engine=VmapEngine(), bn="transductive").logits(episodes)
    distances = torch.cdist(episodes.query_x.flatten(2), episodes.support_x.flatten(2))
    nearest = episodes.support_y.gather(1, distances.argmin(-1))
    assert torch.equal(logits.argmax(-1), nearest)
