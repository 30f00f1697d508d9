"""What a family of methods shows of its own collapse, in the metrics of its steps, and what the literature advises."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxssl.evaluation.measures.collapse import REMEDY


class Sign(NamedTuple):
    """bad(value, K, B) → whether a metric's value is a sign, for embeddings of K dimensions and batches of B images; words: what is wrong; remedy: what to change."""
    bad: Callable
    words: str
    remedy: str


WINDOW, BEFORE, SPIKE = 500, 50, 10.0         # steps that are looked at, those before one that say what is usual, and how many times that a spike is
COLLAPSED = 0.382                                                 # SIGReg over its floor where all embeddings are equal, times the batch

SIGNS = {
    # self-distillation with a predictor: SimSiam (arXiv 2011.10566), figure 2; Tian et al. 2021 (arXiv 2102.06810)
    "target_std": Sign(lambda x, dim, batch: not x >= 0.2, "the targets are collapsing: spread {:.2g}, 1 is healthy",
                       "slow the copy down (method.tau nearer to 1), let the predictor learn faster than what is below it, and keep batch norm in the projector"),
    "predictor_rank": Sign(lambda x, dim, batch: not x >= 1.3, "the predictions lie along {:.2g} directions",
                           "let the predictor keep up (a rate that does not fall, a wider hidden layer), and keep the weight decay, which it needs"),
    # prototypes: DINO (arXiv 2104.14294), section 5.3; SwAV (arXiv 2006.09882)
    "target_information": Sign(lambda x, dim, batch: not x >= 0.05, "the targets say {:.2g} nats of which image is meant: all images have the same",
                               "where teacher_entropy is near the log of method.prototypes, its largest, sharpen (lower teacher_temp or epsilon, norm the head); where it is "
                               "near 0, one prototype wins everywhere: center, or assign equally, warm the temperature up, lower the rate"),
    "student_information": Sign(lambda x, dim, batch: not x >= 0.01, "the student says {:.2g} nats of which image it sees",
                                f"{REMEDY}, freeze the prototypes at first, clip gradients"),
    "center_share": Sign(lambda x, dim, batch: not x <= 0.95, "the center carries {:.2g} of the teacher's logits: images hardly differ",
                         f"{REMEDY}, and give the head batch norm or a wider bottleneck, or the encoder a longer warm-up"),
    # DINOv2 (arXiv 2304.07193), CAPI (2502.08769), MSN (2204.07141): prototypes, and what KoLeo sees
    "prototypes_used": Sign(lambda x, dim, batch: not x >= 0.03, "{:.2g} of the prototypes that could be are the largest of some target",
                            "assign equally (method.assignment=sinkhorn), fewer prototypes, warm teacher_temp up more slowly, freeze the prototypes at first"),
    "duplicates": Sign(lambda x, dim, batch: not x <= 0.25, "{:.0%} of the features lie within 1e-3 of another's: images come twice, or the encoder collapses",
                       "look for equal images (python -m jaxssl.data inspect), set method.koleo_floor above 0, " + REMEDY),
    # clusters: DeepCluster (arXiv 1807.05520), section 3.3; SMoG (2207.06167)
    "clusters_in_effect": Sign(lambda x, dim, batch: not x >= 2, "the batch lies in {:.2g} clusters in effect: nearly all images have the same",
                               f"{REMEDY}, or ask for fewer clusters (method.prototypes, method.groups) that are renewed more often (method.every, method.reset)"),
    "prior_divergence": Sign(lambda x, dim, batch: not x <= 3, "the mean assignment lies {:.2g} nats from its prior: few prototypes serve all images",
                             "raise method.prior_weight, lower the learning rate, or take fewer prototypes"),
    # redundancy: Barlow Twins (arXiv 2103.03230), VICReg (arXiv 2105.04906), TiCo (arXiv 2206.10698)
    "off_diagonal": Sign(lambda x, dim, batch: not x <= max(0.5, 2 / batch**0.5), "dimensions repeat each other: their correlations have a root mean square of {:.2g}",
                         "raise the weight of redundancy or covariance, or widen the projector's output"),
    "variance": Sign(lambda x, dim, batch: not x <= 0.9, "embeddings shrink to a point: the variance term is {:.2g} of at most .99",
                     "raise method.std, or lower method.sim"),
    "covariance_rank": Sign(lambda x, dim, batch: not x >= 1.3, "the average covariance has {:.2g} directions", "raise method.contrast"),
    # distribution: LeJEPA (arXiv 2511.08544), section 4; VISReg (arXiv 2606.02572), section 3; MMCR (arXiv 2303.03307)
    "sigreg_over_floor": Sign(lambda x, dim, batch: not x <= 0.5 * COLLAPSED * batch, "SIGReg is {:.3g} times its floor, and its gradient vanishes where embeddings are equal",
                              "raise method.weight (weight · batch is what counts), lower the learning rate, or take visreg, whose gradient does not vanish"),
    "visreg_scale": Sign(lambda x, dim, batch: not x <= 0.8, "deviations are far from 1: the scale term is {:.2g}, 1 where all embeddings are equal",
                         f"raise method.weight, {REMEDY}"),
    # neighbours among earlier images: NNCLR (arXiv 2104.14548), MSF (2105.07269)
    "neighbour_margin": Sign(lambda x, dim, batch: not x >= 0.15, "the nearest of the queue's rows are {:.2g} of a cosine nearer than its rows at large: all say the same",
                             f"{REMEDY}, slow the copy down (method.tau nearer to 1), or lengthen the queue"),
    # any encoder, transformers above all: MoCo v3 (arXiv 2104.02057), section 4; DINO (2104.14294), appendix C; `spikes` counts them
    "gradient_spikes": Sign(lambda x, dim, batch: not x < 3, f"the gradient's norm leapt {{:.0f}} times beyond {SPIKE:.0f} times its median of the steps before",
                            "hold a vision transformer's patch projection still (model.frozen_patch=true, as MoCo v3 does), clip gradients (optim.clip, 3 in DINO and .3 for its "
                            f"largest ViT), {REMEDY}"),
    "capacity": Sign(lambda x, dim, batch: not x >= 1.3 / min(batch, dim or batch) ** 0.5, "the mean embeddings fill {:.2g} of their space, as one direction would", REMEDY),
}


def warnings(metrics: Mapping[str, Any], dim: int | None, batch: int) -> list[str]:
    """A sentence for each of `SIGNS` that `metrics` shows; a value that is not finite is one.

    dim: K of what the loss compares, None where it compares no embeddings. batch: global images.
    """
    found = [(sign, float(metrics[name])) for name, sign in SIGNS.items() if name in metrics]
    return [f"{sign.words.format(value)}; {sign.remedy}" for sign, value in found if sign.bad(value, dim, batch)]


def spikes(norms: Sequence[float]) -> int:
    """How often the gradient's norm leapt: the times it came to stand above `SPIKE` times the median of the `BEFORE` norms before it; a norm that is not finite does.

    norms: of steps one after another, the newest last; the first 10 are compared with nothing. A norm that stays up has leapt once. The last `WINDOW` count.
    """
    norms = np.asarray(norms, np.float64)[-WINDOW:]
    high = [i >= 10 and not norms[i] <= SPIKE * np.median(norms[max(i - BEFORE, 0):i]) for i in range(len(norms))]
    return sum(now and not before for before, now in zip([False, *high], high))
