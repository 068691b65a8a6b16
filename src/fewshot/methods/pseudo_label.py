"""Train inner loops on pseudo-labels, after FixMatch.

The pseudo-labels are of unlabelled images.

Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020.

The prediction q_j on a weakly augmented unlabelled image names its class where the prediction is confident, and the
strongly augmented image is trained towards that class (section 2.2, eq. 4):
    loss = weight * mean_j 1[max q_j >= threshold] CE(prediction on strong_j, argmax q_j)
The mean is over all unlabelled images; no gradient passes through q.

Differs from the paper:
- the term belongs to the few steps of an inner loop, so an image is augmented once a task, not once a step;
- the term enters from the second step: before the first, predictions know nothing of the task's classes;
- weak is a shift without a flip and strong an affine map with cutout, as characters change under the paper's;
- labelled images are not augmented; each of the three batches has its own batch statistics.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot import augment
from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.predictor import ExtraLoss
from fewshot.networks import Prediction
from fewshot.streams import TaskStream

Augmentation = Callable[[Tensor, Tensor, int], Tensor]  # images, key, stream


class PseudoLabels:
    """Make the further inner-loss term of one task.

    Args:
        threshold: how probable a class must be; above 1 no image counts.
        weight: factor of the term beside the cross-entropy of the support set.
        start: the inner step, counted from 0, from which the term enters.
        weak, strong: augmentations.
    """

    def __init__(
        self,
        threshold: float = 0.95,
        weight: float = 1.0,
        start: int = 1,
        weak: Augmentation = augment.weak,
        strong: Augmentation = augment.strong,
    ) -> None:
        self.threshold = threshold
        self.weight = weight
        self.start = start
        self.weak = weak
        self.strong = strong

    def __call__(self, episode: Episode) -> ExtraLoss:
        """Return the term for the unlabelled images.

        Raises:
            UserError: the task has no unlabelled images.
        """
        if episode.unlabeled_x is None:
            raise UserError("method.pseudo_labels needs task.unlabeled of at least 1, and task.train_unlabeled too")
        weak = self.weak(episode.unlabeled_x, episode.key, TaskStream.WEAK_AUGMENTATION)
        strong = self.strong(episode.unlabeled_x, episode.key, TaskStream.STRONG_AUGMENTATION)

        def term(prediction: Prediction, predict: Callable[[Tensor], Prediction], step: int) -> Tensor:
            if step < self.start:
                return prediction.logits.new_zeros(())
            with torch.no_grad():
                confidence, label = predict(weak).logits.softmax(1).max(1)
            losses = F.cross_entropy(predict(strong).logits, label, reduction="none")
            return self.weight * ((confidence >= self.threshold) * losses).mean()

        return term
