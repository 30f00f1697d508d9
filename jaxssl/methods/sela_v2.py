"""SeLa v2 (arXiv 1911.05371; second version: arXiv 2006.09882, section 4.1): every crop predicts the label of its image, and all labels are used equally often.

As DeepCluster v2, whose machinery this is: a memory bank of all images and several heads. But prototypes are trained, and once an epoch the images of the bank are dealt
to them in equal shares (Sinkhorn-Knopp); an image's label is the prototype it has its largest share in.
No code of it was published. What the paper does not say is as in DeepCluster v2 (heads, bank, one labelling an epoch) or SwAV (epsilon); iterations are more than SwAV's
three, since the shares of all images hold for an epoch. The bank is filled as methods/deepcluster_v2.py says.

Expected: ResNet-50, ImageNet, batch 4096: 71.8 % linear after 400 epochs of 2 crops of 160 px + 4, 67.2 % after 400 of 2 (official README of SwAV).
"""
from jaxssl.losses import clustering
from jaxssl.methods.base import Method, check_range
from jaxssl.methods.deepcluster_v2 import clustered
from jaxssl.models.net import Net
from jaxssl.models.prototypes import Prototypes


def make(*, encoder, net, examples, duration, total, temperature=0.1, epsilon=0.05, iterations=20, prototypes=3000, heads=3, hidden=2048, dim=128, fill="1_epochs",
         every="1_epochs") -> Method:
    """SeLa v2.

    Args:
      temperature: of the student's softmax, > 0. epsilon, iterations: of the shares (Sinkhorn-Knopp).
      prototypes: of each head, at most the number of training images. heads: labellings side by side.
      hidden, dim: of the projector.
      fill: how long the bank is filled before anything is trained. every: how long labels stay.
    """
    check_range(epsilon=(epsilon, "above 0", epsilon > 0), iterations=(iterations, "at least 1", iterations >= 1))

    def renew(key, rows, weight, clusters, trained):
        return {"centroids": trained, "shift": clustering.equal_shares(rows, weight, trained, temp=epsilon, iterations=iterations)}

    return clustered(encoder, net, examples, total, temperature=temperature, prototypes=prototypes, heads=heads, hidden=hidden, dim=dim, renew=renew, temp=epsilon,
                     fill=duration(fill, "method.fill"), every=duration(every, "method.every"), learned=Net(Prototypes(heads * prototypes)))
