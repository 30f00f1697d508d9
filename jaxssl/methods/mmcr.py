"""MMCR (arXiv 2303.03307): the mean embeddings of images span as large a space as they can; the means are long only where the views of an image agree.

Heads as in the official code (ThomasYerxa/mmcr, mmcr/imagenet/models.py): Barlow Twins' projector, 512 wide at its end. The means there are of a network and of its
slow copy; on CIFAR-10 there is no copy (`teacher=False`).
Differs: the gradient is the whole batch's, where the official one is that of a device's own rows; the copy's running statistics are averaged with its weights. With a
copy, what is evaluated is the average (`--use student` for the other).

Expected: ResNet-50, ImageNet, batch 2048, 2 views, 100 epochs; the README has no value, and none of the paper's was checked.
"""
from jaxssl.losses.spectral import mmcr
from jaxssl.methods.base import Method, Needs, begin, check_range, embedding, projected, unchanged, with_teacher
from jaxssl.models.heads import TORCH, Projector


def unread(*, teacher, **_):
    return {} if teacher else {"teacher": ("tau",)}


def make(*, encoder, net, weight=0.0, teacher=True, tau=0.99, hidden=8192, dim=512, layers=3) -> Method:
    """MMCR.

    Args:
      weight: of how much the views of an image span (λ), 0 or more; 0 leaves it out, as the official code does.
      teacher: the means take in a moving average of the network. tau: its decay, throughout.
      hidden, dim, layers: the projector's width, output width and depth.
    """
    check_range(weight=(weight, "0 or more", weight >= 0), tau=(tau, "in [0, 1]", 0 <= tau <= 1), hidden=(hidden, "at least 1", hidden >= 1),
                dim=(dim, "at least 1", dim >= 1), layers=(layers, "at least 1", layers >= 1))
    head = Projector((hidden,) * (layers - 1) + (dim,), last_norm=False, kernel_init=TORCH)
    projector = net(head)

    def init(key, batch):
        return begin(key, batch, encoder, projector=projector)

    def loss(params, aux, batch, key, step):
        h, z, stats = projected(encoder, projector, params, aux["batch_stats"], batch["views"], key)                                # [B, V, D], [B, V, K]
        slow = projected(encoder, projector, aux["teacher"]["params"], aux["teacher"]["batch_stats"], batch["views"])[1] if teacher else None
        value, capacity = mmcr(z, slow, weight=weight)
        return value, ({**aux, "batch_stats": stats}, {"capacity": capacity}, {"features": h, "embeddings": z})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"projector": (head, "encoder")}, needs=Needs(views=2))
    return with_teacher(student, ("encoder", "projector"), lambda step: tau) if teacher else student
