"""SimDINO (arXiv 2502.10385): crops of an image agree with what a slow copy says of its large ones, and the embeddings of a batch fill all directions.

DINO without prototypes, center and temperatures: its head ends at the bottleneck, of unit length, and a coding rate keeps it from collapse. Student and teacher are
averaged before it is taken, which smooths it (`expa_type=1` in the official code).
Differs: the official code (RobinWu218/SimDINO, simdino/main_dino.py) takes the second moments of each device alone, over the number of images of all, so its
results depend on the number of devices; here that is `groups`, whatever the devices: 8 is what its published runs computed, 1 is the paper's formula. Of networks
with batch norm the teacher's running statistics are averaged with its weights, where theirs come from its own passes.

Expected: ViT-B/16, ImageNet, 100 epochs of 2 + 10 crops: 74.9 % kNN, 77.3 % linear; ViT-L/16 75.6 and 77.4 % (official README; its DINO reaches 72.9 and 76.3 % with B/16).
"""
from jax.lax import stop_gradient

from jaxssl import schedules
from jaxssl.errors import UserError
from jaxssl.losses.distillation import cosine_regression
from jaxssl.losses.correlation import coding_rate
from jaxssl.methods.base import Method, Needs, all_crops, begin, check_range, embedding, encoded, unchanged, with_teacher
from jaxssl.models.prototypes import PrototypeHead


def make(*, encoder, net, batch_size, total, tau=0.996, weight=1.0, epsilon=0.05, groups=1, hidden=2048, dim=256, layers=3, norm=False) -> Method:
    """SimDINO.

    Args:
      tau: decay of the average at the start; it grows to 1 along half a cosine.
      weight: of the agreement, 0 or more, beside the coding rate. epsilon: squared precision of the coding rate.
      groups: parts of the batch, each with a coding rate of its own.
      hidden, dim, layers: the head's width, output width and depth. norm: batch norm in it.
    """
    check_range(tau=(tau, "in [0, 1]", 0 <= tau <= 1), weight=(weight, "0 or more", weight >= 0), epsilon=(epsilon, "above 0", epsilon > 0),
                groups=(groups, "at least 1", groups >= 1), hidden=(hidden, "at least 1", hidden >= 1), dim=(dim, "at least 1", dim >= 1),
                layers=(layers, "at least 1", layers >= 1))
    if batch_size % groups:
        raise UserError(f"method.groups is {groups}, which does not divide the batch of {batch_size}; choose a divisor")
    module = PrototypeHead((hidden,) * (layers - 1) + (dim,), norm=norm, prototypes=False)
    head = net(module)
    decay = schedules.tau(tau, total)
    balance = (dim + batch_size) / (dim * batch_size)

    def init(key, batch):
        return begin(key, batch, encoder, head=head)

    def seen_by(params, stats, crops, key=None):
        h, stats = encoded(encoder, params, stats, crops, key)                                      # [B, V, D]
        z, stats["head"] = head.per_view(params["head"], stats["head"], h)                          # [B, V, K], of unit length
        return h, z, stats

    def loss(params, aux, batch, key, step):
        whole = batch["views"].shape[1]
        h, student, stats = seen_by(params, aux["batch_stats"], all_crops(batch), key)
        teacher = stop_gradient(seen_by(aux["teacher"]["params"], aux["teacher"]["batch_stats"], [batch["views"]])[1])             # [B, T, K]
        agreement = 1 - cosine_regression(student, teacher) / 2                                     # mean cosine over pairs of different crops
        rate = coding_rate((student[:, :whole] + teacher) / 2, epsilon=epsilon, groups=groups)
        metrics = {"agreement": agreement, "coding_rate": rate, "tau": decay(step)}
        return -weight * agreement - balance * rate, ({**aux, "batch_stats": stats}, metrics, {"features": h[:, :whole], "embeddings": student[:, :whole]})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"head": (module, "encoder")}, needs=Needs(views=2, local=0))
    return with_teacher(student, ("encoder", "head"), decay)
