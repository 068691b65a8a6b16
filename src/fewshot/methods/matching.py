"""Train matching networks.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, "Matching networks for one shot learning", NeurIPS 2016.

The class probabilities of a query are an attention over the support labels (eq. 1):
    p(y = k | x) = sum over i with y_i = k of a(x, x_i),   a = softmax over i of scale * cos(f(x), g(x_i))
With ``full_context`` f and g depend on the whole support set (section 2.1.2, appendix A.1 and A.2).

The logits are not normalised: logit_k = logsumexp over i with y_i = k of scale * cos. Their softmax is p exactly;
log p itself would not do for MetaGAN, whose real/fake logit is the logsumexp of the logits and so always 0.

Differs from the paper:
- the cosine has a learned scale, which starts at 10; the paper's is 1, where no p can come near 0 or 1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.embedding import EmbeddingMethod
from fewshot.methods.predictor import ExtraLoss, Predictor, module_state
from fewshot.networks import Backbone, FullContext, Prediction


def class_logits(similarities: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Return the logsumexp over each class.

    The similarities are ``(M, N*K)``, the output is ``(M, N)``.
    """
    member = F.one_hot(labels, ways) > 0
    # ``where``, as ``vmap`` takes no masks.
    return torch.where(member, similarities[..., None], -torch.inf).logsumexp(1)


class MatchingNet(EmbeddingMethod):
    """Train an embedding that matches queries to classes.

    A query becomes similar to the support images of its class.

    Args:
        backbone: images to embeddings.
        full_context: embed each image in the context of the support set, which is read as a sequence: the
            prediction then depends on the order of the support images.
        processing_steps: attention steps of the full context, for each query.
        base: see ``Method``. Statistics are as for a prototypical network: under ``bn=transductive``, as in
            training, the support and query images share statistics.
    """

    stores_statistics = True
    knownness_score = "logit"

    def __init__(self, backbone: Backbone, full_context: bool = False, processing_steps: int = 5, **base: Any) -> None:
        super().__init__(backbone, **base)
        if processing_steps < 1:
            raise UserError(f"method.processing_steps={processing_steps}: must be at least 1")
        self.context = FullContext(backbone.features, processing_steps) if full_context else None
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        support_x = episode.support_x
        support_y = episode.support_y

        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            embedded = self.forward_queries(self.backbone, module_state(state, "backbone"), support_x, x, joint=True)
            support, queries = embedded.tensor_split([len(support_x)])
            if self.context is not None:
                support, queries = functional_call(self.context, module_state(state, "context"), (support, queries))
            similarities = state["log_scale"].exp() * F.normalize(queries) @ F.normalize(support).T
            return Prediction(class_logits(similarities, support_y, episode.ways), queries)

        return Predictor(predict, dict(self.named_parameters()))
