"""PMSN (arXiv 2210.07277): MSN whose mean assignment is drawn to a power law, for images whose classes are of very different sizes.

Even assignments are a prior that clusters are equally large; where they are not, features other than the classes are found. As methods/msn.py but for the prior; by the paper
alone. Without equal targets, which would put the uniform prior back.

Expected: better than MSN on sets with classes of very different sizes (paper); no number of it is stated here.
"""
from jaxssl.methods.base import Method
from jaxssl.methods.msn import siamese, unread  # noqa: F401: its keys are turned off alike


def make(*, encoder, net, total, temperature=0.1, sharpen=0.25, tau=0.996, prototypes=1024, hidden=2048, dim=256, layers=3, prior_weight=1.0, exponent=0.25, equal=False,
         iterations=3, patch_drop=0.15, shared_drop=True) -> Method:
    """PMSN. Args: as those of `msn.make`; exponent: prototype k is to be used in proportion to k ^ -exponent."""
    return siamese(encoder, net, total, temperature=temperature, sharpen=sharpen, tau=tau, prototypes=prototypes, hidden=hidden, dim=dim, layers=layers,
                   prior_weight=prior_weight, exponent=exponent, equal=equal, iterations=iterations, patch_drop=patch_drop, shared_drop=shared_drop)
