"""Relation and matching networks from the formulas of their papers, written out pair by pair."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fewshot.engines import VmapEngine
from fewshot.errors import UserError
from fewshot.methods.matching import class_logits
from fewshot.networks import FullContext, RelationNetwork, conv4
from fewshot.networks.full_context import LSTMCell
from fewshot.networks.norm_layers import batch_norms, recording
from methods_table import matching, relation

pytestmark = pytest.mark.usefixtures("float64")
N = 5


@pytest.fixture
def task(episodes):
    task = episodes[0]
    return replace(task, support_x=task.support_x.double(), query_x=task.query_x.double())


def scrambled(module):
    """Norms that scale and shift, so that a test sees where they stand."""
    for layer in batch_norms(module):
        torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
        torch.nn.init.normal_(layer.bias)
    return module


def made(method):
    scrambled(method.network)
    return method.eval()


def head_by_hand(network: RelationNetwork, pairs, statistics_of):
    """The head on pairs ``(P, 2C, h, w)``, normalised by those rows of each layer's input that are named."""
    x = F.conv2d(pairs, network.join.weight, network.join.bias, padding=1)
    norms = batch_norms(network.head)
    for block, norm in enumerate(norms):
        if block:
            x = F.conv2d(x, network.head[3].weight, network.head[3].bias, padding=1)
        mean, var = statistics_of(norm, x)
        x = F.batch_norm(x, mean, var, norm.weight, norm.bias, training=False, eps=norm.eps)
        x = F.relu(F.max_pool2d(x, 2))
    x = F.relu(F.linear(x.flatten(1), network.head[8].weight, network.head[8].bias))
    return F.linear(x, network.head[10].weight, network.head[10].bias).squeeze(1)


def backbone_by_hand(network: RelationNetwork, x, statistics_of):
    for layer in network.backbone.layers:
        if layer in batch_norms(network):
            mean, var = statistics_of(layer, x)
            x = F.batch_norm(x, mean, var, layer.weight, layer.bias, training=False, eps=layer.eps)
        elif not isinstance(layer, torch.nn.Flatten):
            x = layer(x)
    return x


def batch(layer, x):
    return x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)


def first(rows: int):
    return lambda layer, x: batch(layer, x[:rows])


def running(layer, x):
    return layer.running_mean, layer.running_var


def class_sums(maps, labels):
    return torch.stack([sum(m for m, y in zip(maps, labels, strict=True) if y == c) for c in range(N)])


def side_by_side(classes, maps):
    """Image-major: image i and class j in row i*N + j, the class first."""
    return torch.stack([torch.cat([c, m]) for m in maps for c in classes])


def by_hand(method, task, bn: str):
    """Logits ``(M, N)`` of the query images, each pass with its statistics."""
    network, (support_x, query_x) = method.relation, (task.support_x, task.query_x)
    if bn == "support":  # one pass, whose first part is the support set
        both = backbone_by_hand(network, torch.cat([support_x, query_x]), first(len(support_x)))
        support, queries = both[: len(support_x)], both[len(support_x) :]
        classes = class_sums(support, task.support_y)
        scores = head_by_hand(network, side_by_side(classes, both), first(N * len(support_x)))
        return scores[N * len(support_x) :].view(-1, N)
    of = running if bn == "running" else batch
    support, queries = (backbone_by_hand(network, x, of) for x in (support_x, query_x))
    return head_by_hand(network, side_by_side(class_sums(support, task.support_y), queries), of).view(-1, N)


@pytest.mark.parametrize("bn", ["transductive", "support", "running"])
def test_relation_logits_by_hand(task, bn):
    torch.manual_seed(0)
    method = made(relation(VmapEngine(), bn=bn))
    for layer in batch_norms(method.network):
        layer.update(torch.randn(8), torch.rand(8) + 0.5)
    with torch.no_grad():
        torch.testing.assert_close(method.fit_task(task)(task.query_x).logits, by_hand(method, task, bn))


def test_relation_classes_are_sums_of_two_support_embeddings(task):
    torch.manual_seed(0)
    method = made(relation(VmapEngine()))
    classes = method.fit_task(task).state["classes"]
    support = method.relation.backbone(task.support_x)
    for c in range(N):
        one, other = support[task.support_y == c]
        torch.testing.assert_close(classes[c], one + other)


def test_relation_network_keeps_no_classes(task):
    method = relation(VmapEngine())
    method.fit_task(task)(task.query_x)
    assert len(method.relation.classes) == 0
    assert "relation.classes" not in method.state_dict()


def test_squared_error_by_hand():
    logits = torch.tensor([[0.0, 1.0], [-2.0, 3.0]])
    p = [[0.5, 1 / (1 + 2.718281828459045**-1)], [1 / (1 + 2.718281828459045**2), 1 / (1 + 2.718281828459045**-3)]]
    wanted = ((p[0][0] - 1) ** 2 + p[0][1] ** 2 + p[1][0] ** 2 + (p[1][1] - 1) ** 2) / 4
    labels = torch.tensor([0, 1])
    assert float(relation(VmapEngine()).query_loss(logits, labels)) == pytest.approx(wanted, rel=1e-12)
    ce = float(relation(VmapEngine(), loss="cross_entropy").query_loss(logits, labels))
    assert ce == pytest.approx(float((torch.tensor([2.718281828459045, 2.718281828459045**-5]) + 1).log().mean()))


def test_running_statistics_of_relation_are_of_the_query_pass(task):
    """The last pass of each layer is what a training step stores: queries, and their pairs, not the support set."""
    torch.manual_seed(0)
    method = made(relation(VmapEngine(), bn="running")).train()
    with torch.no_grad():
        _, terms = method.predict_queries(method.fit_task(task), task.query_x)
        with recording(method.relation.backbone) as seen:
            method.relation.backbone(task.query_x)
    for layer, passes in enumerate(seen):
        torch.testing.assert_close(terms[f"norm/{layer}/mean"], passes[-1][0])
        torch.testing.assert_close(terms[f"norm/{layer}/var"], passes[-1][1])
    assert len(terms) == 2 * len(batch_norms(method.network)) == 8


def test_relation_refuses_maps_that_cannot_be_halved_twice_and_unknown_losses():
    with pytest.raises(UserError, match="feature maps of 3 x 3 are too small"):
        RelationNetwork(conv4(1, 12, width=8, depth=2, stride=False, mean_over_space=False))
    with pytest.raises(UserError, match=r"method\.loss=hinge: choose one of mse, cross_entropy"):
        relation(VmapEngine(), loss="hinge")


@pytest.mark.parametrize("full_context", [False, True])
def test_matching_probabilities_by_hand(task, full_context):
    """Vinyals et al. 2016, eq. 1: attention over the support images, summed over those of a class."""
    torch.manual_seed(0)
    method = made(matching(VmapEngine(), bn="transductive", full_context=full_context))
    with torch.no_grad():
        logits = method.fit_task(task)(task.query_x).logits
        embedded = method.backbone(torch.cat([task.support_x, task.query_x]))
        support, queries = embedded[:10], embedded[10:]
        if full_context:
            support, queries = method.context(support, queries)
    wanted = torch.zeros(len(queries), N)
    for m, q in enumerate(queries):
        attention = torch.tensor([float(10 * (q @ s) / (q.norm() * s.norm())) for s in support]).softmax(0)
        for a, y in zip(attention, task.support_y, strict=True):
            wanted[m, y] += a
    torch.testing.assert_close(logits.softmax(1), wanted)


def test_matching_logits_are_not_normalised():
    """Their logsumexp is that of all similarities: large where a query is like the support set."""
    similarities, labels = torch.tensor([[1.0, 2.0, 3.0, 0.0]]), torch.tensor([1, 0, 1, 0])
    logits = class_logits(similarities, labels, 2)
    e = 2.718281828459045
    torch.testing.assert_close(logits.exp(), torch.tensor([[e**2 + 1, e + e**3]]))
    torch.testing.assert_close(logits.logsumexp(1), similarities.logsumexp(1))


def test_lstm_cell_equals_torch():
    torch.manual_seed(0)
    ours, theirs = LSTMCell(3, 4, 4), torch.nn.LSTMCell(3, 4)
    with torch.no_grad():
        theirs.weight_ih.copy_(ours.input.weight)
        theirs.weight_hh.copy_(ours.hidden.weight)
        theirs.bias_ih.copy_(ours.input.bias)
        theirs.bias_hh.zero_()
    x, h, c = torch.randn(6, 3), torch.randn(6, 4), torch.randn(6, 4)
    for got, wanted in zip(ours(x, h, c), theirs(x, (h, c)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_full_context_of_the_support_set_equals_a_bidirectional_lstm():
    """Vinyals et al. 2016, appendix A.2, with torch's own LSTM."""
    torch.manual_seed(0)
    context, lstm = FullContext(4, steps=1), torch.nn.LSTM(4, 4, bidirectional=True)
    with torch.no_grad():
        for suffix, cell in (("l0", context.ahead), ("l0_reverse", context.back)):
            getattr(lstm, f"weight_ih_{suffix}").copy_(cell.input.weight)
            getattr(lstm, f"weight_hh_{suffix}").copy_(cell.hidden.weight)
            getattr(lstm, f"bias_ih_{suffix}").copy_(cell.input.bias)
            getattr(lstm, f"bias_hh_{suffix}").zero_()
        support = torch.randn(7, 4)
        outputs = lstm(support)[0]
        got, _ = context(support, torch.randn(2, 4))
    torch.testing.assert_close(got, support + outputs[:, :4] + outputs[:, 4:])


def test_full_context_of_a_query_by_hand():
    """Vinyals et al. 2016, appendix A.1: two steps for one query; the first reads the mean of the support set."""
    torch.manual_seed(0)
    context = FullContext(4, steps=2)
    with torch.no_grad():
        support, queries = torch.randn(3, 4), torch.randn(2, 4)
        g, got = context(support, queries)
        q = queries[1]
        h1, c1 = context.attend(q, torch.cat([torch.zeros(4), g.mean(0)]), torch.zeros(4))  # eq. 2
        h1 = h1 + q  # eq. 3
        attention = torch.stack([h1 @ g_i for g_i in g]).exp()  # eq. 5
        read = sum(a * g_i for a, g_i in zip(attention / attention.sum(), g, strict=True))  # eq. 4
        h2, _ = context.attend(q, torch.cat([h1, read]), c1)
    torch.testing.assert_close(got[1], h2 + q)
