"""Losses of labelled images: metric learning and image retrieval. One file a family; each is called as

    loss = name(z, label, *, id=None, reference=None, weight=None, metrics=False, **options)

z: [B, D], any scale and float type, of the global batch; computed in float32, each row over its length unless the loss says otherwise.
label: [B] whole numbers, -1 for an image without a label, which counts nowhere: no anchor, no positive, no negative.
id: [B] whole numbers, of the images; two rows of one id (not negative) are never a pair. None: the place in the batch. A row is never a pair with itself.
reference: (z [R, D], label [R], id [R] or None), the candidates of the batch's anchors in place of the batch: a memory of earlier rows, or other views. What of the batch
  shall be a candidate too stands in it. Gradients flow to it: a memory's are stopped by whoever keeps it.
weight: of a miner, at least 0, without gradient. [B, B] ([B, R] with a reference): how often a pair stands; 0 is no pair, 2 counts as two equal rows of it would, in sums,
  in means and in logsumexps; a triplet stands as often as its two pairs together say. [B]: how often an anchor stands in the mean; as a candidate it stands once.
metrics: True gives (loss, dict of scalars without gradient): `active`, how many terms are not 0; `active_share`, of all terms; `positive_pairs`, 0 where the batch cannot
  teach what is alike; `positive_similarity` and `negative_similarity`, mean cosines over pairs, 0 where there are none.

Those with class weights take them after the label: [C, D], or [C, K, D] of K centres a class, with gradient, any scale; no reference and no weights of pairs. A label of
C or more gives NaN, since it is of another numbering: labels must be 0 to C - 1 of the classes trained on.

block: of losses with a term an anchor: so many anchors against all candidates at a time, so that nothing of the size of all pairs is kept; 0 is all at
once, the number is the same.
mesh: of losses with class weights, the devices that share the classes (`classes`).

Means are over the global batch: a mean of devices' or micro-batches' means is another number wherever the count of active terms differs, and so no such thing is taken.
A mean of no terms is 0, with gradients of 0. Losses "in rounds" go through every anchor's first positive, second
positive and so on, so that triplets take the memory of pairs; they have first derivatives only. Margins,
temperatures and scales may be traced: a schedule, or learned. ValueError for shapes and types that do not fit. "PML" is
pytorch-metric-learning 2.9, and "as PML" means that its default object returns this number, in float64, where every image has a label.

`threshold_consistent_margin` is a regulariser too: add it to any other.
"""
from jaxssl.losses.metric.classes import arcface, cosface, normalized_softmax, proxy_anchor, proxy_nca, soft_triple, sub_center_arcface
from jaxssl.losses.metric.cookbook import cookbook_contrastive, cookbook_nca, cookbook_tuplet
from jaxssl.losses.metric.margins import contrastive, margin, snr_contrastive, threshold_consistent_margin
from jaxssl.losses.metric.ranking import fast_ap, smooth_ap
from jaxssl.losses.metric.similarities import circle, lifted_structure, multi_similarity
from jaxssl.losses.metric.softmaxes import n_pairs, nca, nt_xent_labelled, sup_con, tuplet
from jaxssl.losses.metric.triplets import phi_psi, triplet

__all__ = ["arcface", "circle", "contrastive", "cookbook_contrastive", "cookbook_nca", "cookbook_tuplet", "cosface", "fast_ap", "lifted_structure", "margin",
           "multi_similarity", "n_pairs", "nca", "normalized_softmax", "nt_xent_labelled", "phi_psi", "proxy_anchor", "proxy_nca", "smooth_ap", "snr_contrastive", "soft_triple",
           "sub_center_arcface", "sup_con", "threshold_consistent_margin", "triplet", "tuplet"]
