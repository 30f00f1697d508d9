"""Every loss against the paper's loop in numpy float64, and what must hold of all of them. A new loss is one row of CASES and its loop.

The loops are written from the formulas of the docstrings; they share nothing with the losses. Values, slopes, images in another order, one and eight
devices, and bfloat16 are read off each row.
"""
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy.stats import norm

from jaxssl.losses import (clustering, contrastive, copies as copying, correlation, dictionary, discrimination, distillation, masked, matching, redundancy, spectral,
                           spread as spreading, unified)

B = 16  # images: the length of no other axis, so that an array's first axis says whether it lies on the batch
MESH = (4, 2)


class Case(NamedTuple):
    name: str
    function: object  # arrays → scalar, or an array
    oracle: object  # the same of numpy f64, one element at a time
    inputs: object  # rng → arrays; those of B rows lie on the batch
    learned: tuple = (0,)  # which of them gradients flow to; to the other floats there must be none
    held: object = lambda *x: {}  # arrays → keywords of the oracle: what it would compute from them and gradients take for given


def normal(*shapes):
    return lambda rng: [rng.normal(size=shape) for shape in shapes]


def simplex(rng, *shape):
    x = rng.gamma(1., size=shape)
    return x / x.sum(-1, keepdims=True)


def cosine(a, b):
    return a @ b / np.sqrt(a @ a) / np.sqrt(b @ b)


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def over_pairs(of, V, T):
    """Mean of of(b, s, t) over images and different views."""
    return np.mean([of(b, s, t) for b in range(B) for t in range(T) for s in range(V) if s != t])


def nt_xent(z, T):
    _, V, D = z.shape
    z = np.stack([row / np.sqrt(row @ row) for row in z.reshape(-1, D)])
    loss = 0.
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        lse = np.log(np.sum([np.exp(z[i] @ z[j] / T) for j in others]))
        loss += np.mean([lse - z[i] @ z[j] / T for j in others if j // V == i // V])
    return loss / len(z)


def regression(p, z):
    return over_pairs(lambda b, s, t: 2 - 2 * cosine(p[b, s], z[b, t]), p.shape[1], z.shape[1])


def cross_entropy(student, teacher, temp):
    return over_pairs(lambda b, s, t: -teacher[b, t] @ log_softmax(student[b, s] / temp), student.shape[1], teacher.shape[1])


def centered(teacher, center, temp):
    return np.stack([[np.exp(log_softmax((row - center) / temp)) for row in views] for views in teacher])


def sinkhorn(logits, temp, iterations, weight=None):
    """On the rows that are there, the matrix itself rescaled again and again."""
    rows = np.reshape(logits, (-1, logits.shape[-1]))
    here = [i for i in range(len(rows)) if weight is None or np.ravel(weight)[i]]
    Q = np.exp((rows[here] - rows[here].max()) / temp)
    for _ in range(iterations):
        Q = Q / Q.sum(0, keepdims=True) / Q.shape[1]
        Q = Q / Q.sum(1, keepdims=True) / len(here)
    out = np.zeros(rows.shape)
    out[here] = Q * len(here)
    return out.reshape(logits.shape)


def swapped(logits, whole):
    """SwAV: each whole view is assigned on its own, and predicted from the others."""
    return cross_entropy(logits, np.stack([sinkhorn(whole[:, t], .05, 3) for t in range(2)], 1), .1)


def jax_swapped(logits, whole):
    codes = jax.vmap(lambda view: distillation.sinkhorn(view, temp=.05), 1, 1)(whole)
    return distillation.cross_entropy(logits, codes, student_temp=.1)


def jax_swapped_in_parts(logits):
    shifts = distillation.prototype_shifts([(logits[:, :2], None)], temp=.05, block=4)
    return distillation.swapped(logits, shifts, temp=.05, student_temp=.1, block=5)[0]


def entropies(student, teacher):
    def one(p):
        return -sum(x * np.log(x) for x in p)
    return np.array([one(teacher.mean((0, 1))), np.mean([one(np.exp(log_softmax(x / .1))) for x in student.reshape(-1, student.shape[-1])]),
                     np.mean([one(x) for x in teacher.reshape(-1, teacher.shape[-1])])])


def jax_entropies(student, teacher):
    metrics = distillation.distillation_metrics(student, teacher, student_temp=.1)
    return jnp.stack([metrics[name] for name in ("usage_entropy", "student_entropy", "teacher_entropy")])


def pixels(prediction, target, mask, error, normalise):
    values = []
    for b, n in np.argwhere(mask):
        y = target[b, n]
        if normalise:
            y = (y - y.mean()) / np.sqrt(np.sum((y - y.mean()) ** 2) / (len(y) - 1) + 1e-6)
        values.append(np.mean([error(a - c) for a, c in zip(prediction[b, n], y)]))
    return np.mean(values)


def hidden(rng):
    """Predictions and targets of 5 patches of 8 values, some flat, and masks of unequal counts, one image without."""
    target = rng.normal(size=(B, 5, 8)) * rng.choice([0., .1, 3.], (B, 5, 1)) + rng.normal(size=(B, 5, 1)).round(2)
    return [rng.normal(size=(B, 5, 8)), target, (rng.random((B, 5)) < .5) & (np.arange(B) > 0)[:, None]]


def latents(prediction, target, mask, of):
    """Mean of `of`(errors of a token) over the tokens that count, each by its weight."""
    return sum(mask[b, n] * of(prediction[b, n] - target[b, n]) for b, n in np.ndindex(mask.shape)) / mask.sum()


def smooth(beta):
    return lambda e: np.mean([x * x / 2 / beta if abs(x) < beta else abs(x) - beta / 2 for x in e])


def weighed(rng):
    """Tokens, of which some count half and some not at all; errors on both sides of 1 and 2."""
    return [2 * rng.normal(size=(B, 5, 6)), rng.normal(size=(B, 5, 6)), rng.choice([0., .5, 1.], (B, 5))]


def standardised(x, axis=-1):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + 1e-5)


def tokens_told(x):
    return np.stack([standardised(np.mean([standardised(image[:, i], 0) for i in range(x.shape[2])], 0)) for image in x])


def token_entropy(logits, labels, mask):
    return np.mean([-log_softmax(logits[b, n])[labels[b, n]] for b, n in np.argwhere(mask)])


def quantised(target, pixels, z, codes, held=None):
    """held: z and codes where no gradient flows."""
    z0, codes0 = (z, codes) if held is None else held
    pairs = list(np.ndindex(z.shape[:2]))
    return np.mean((pixels - target) ** 2) + np.mean([np.sum((codes[i] - z0[i]) ** 2) + .25 * np.sum((z[i] - codes0[i]) ** 2) for i in pairs])


def nce(q, k, others, T):
    """Mean over queries of -log of the positive's share; others(b, v): what repels."""
    values = []
    for b, v in np.ndindex(q.shape[:2]):
        logits = np.array([cosine(q[b, v], k[b, v]), *(cosine(q[b, v], x) for x in others(b, v))]) / T
        values.append(-log_softmax(logits)[0])
    return np.mean(values)


# Of the images 0 to 15 numbers 1 and 2 are in the queue too, and are not their own negatives.
QUEUED = np.array([1, 2, -1, 40, 41, 2, 42])
KEYS = np.random.default_rng(5).normal(size=(7, 6))


def pairs(z):
    return [(v, w) for w in range(z.shape[1]) for v in range(w)]


def invariance(z):
    return np.mean([(z[b, v, k] - z[b, w, k]) ** 2 for v, w in pairs(z) for b in range(B) for k in range(z.shape[2])])


def variance(z):
    return np.mean([max(0, 1 - np.sqrt(np.sum((z[:, v, k] - z[:, v, k].mean()) ** 2) / (B - 1) + 1e-4)) for v in range(z.shape[1]) for k in range(z.shape[2])])


def covariance(z):
    _, V, K = z.shape
    c = z - z.mean(0)
    return 2 / V / K * sum((c[:, v, i] @ c[:, v, j] / (B - 1)) ** 2 for v in range(V) for i in range(K) for j in range(K) if i != j)


def weighed_terms(terms):
    return 5 * terms["invariance"] + 3 * terms["variance"] + 2 * terms["covariance"]


def barlow(z, weight):
    K, n = z.shape[2], (z - z.mean(0)) / np.sqrt(np.mean((z - z.mean(0)) ** 2, 0) + 1e-5)
    of = {(v, w, i, j): n[:, v, i] @ n[:, w, j] / B for v, w in pairs(z) for i in range(K) for j in range(K)}
    return sum((1 - c) ** 2 if i == j else weight * c**2 for (_, _, i, j), c in of.items()) / len(pairs(z))


def distance(z, whole):
    return np.mean([(z[b, v] - z[b, :whole].mean(0)) ** 2 for b in range(B) for v in range(z.shape[1])])


def correlations(z):
    _, V, K = z.shape
    return 2 / V / K**2 * sum(cosine(z[:, v, i] - z[:, v, i].mean(), z[:, v, j] - z[:, v, j].mean()) ** 2
                              for v in range(V) for i in range(K) for j in range(K) if i != j)


# The average before this batch, as of unit vectors.
AVERAGE = np.cov(np.random.default_rng(6).normal(size=(4, 50)) / 2, bias=True)


def unit_rows(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def newest(p):
    return np.mean([np.outer(row, row) for row in unit_rows(p).reshape(-1, p.shape[-1])], 0)


def tico(p, z, batch=None):
    C = .9 * AVERAGE + .1 * (newest(p) if batch is None else batch)
    return regression(p, z) / 2 + 8 * np.mean([row @ C @ row for row in unit_rows(p).reshape(-1, p.shape[-1])])


def mmcr(z, teacher, weight):
    """Singular values as roots of the eigenvalues of the smaller Gram matrix, in float64."""
    def nuclear(x):
        return np.sqrt(np.maximum(np.linalg.eigvalsh(x @ x.T if len(x) < len(x.T) else x.T @ x), 0)).sum()
    u = unit_rows(z)
    centroids = u.mean(1) if teacher is None else (u.mean(1) + unit_rows(teacher).mean(1)) / 2
    return weight * np.mean([nuclear(x) for x in u]) - nuclear(centroids)


def whitened(x):
    """By Gram-Schmidt on the columns of the inverse, one row at a time."""
    centred = x - x.mean(0)
    C, K = centred.T @ centred / (len(x) - 1), x.shape[1]
    L = np.zeros((K, K))
    for i in range(K):
        for j in range(i + 1):
            rest = C[i, j] - L[i, :j] @ L[j, :j]
            L[i, j] = np.sqrt(rest) if i == j else rest / L[j, j]
    return centred @ np.linalg.inv(L).T


def wmse(z, place, size):
    """place: of each image in an order whose pieces are whitened together."""
    y, order = np.zeros_like(z), np.argsort(place)
    for start in range(0, B, size):
        for v in range(z.shape[1]):
            group = order[start:start + size]
            y[group, v] = whitened(z[group, v])
    return np.mean([2 - 2 * cosine(y[b, v], y[b, w]) for b in range(B) for v, w in pairs(z)])


def visreg(z, directions, deviations=None):
    found = []
    for v in range(z.shape[1]):
        mean, std = z[:, v].mean(0), z[:, v].std(0)
        y = (z[:, v] - mean) / ((std if deviations is None else deviations[v]) + 1e-4)
        shape = [(sorted(y @ a / np.sqrt(a @ a))[i] - norm.ppf((i + 1) / (B + 1))) ** 2 for a in directions.T for i in range(B)]
        found.append(np.mean(mean**2) + np.mean((1 - std) ** 2) + np.mean(shape))
    return np.mean(found)


def vicregl(maps, crop, boxes):
    """Maps of two whole views, 3 × 3, and of a crop, 2 × 2; boxes: top, left, height, width, and whether it is mirrored, of each view."""
    maps, sides, counts = [maps[:, 0], maps[:, 1], crop[:, 0]], (3, 3, 2), (5, 5, 2)

    def place(b, v, n):
        top, left, height, width, mirrored = boxes[b, v]
        row, column = divmod(n, sides[v])
        return np.array([top + (row + .5) * height / sides[v], left + ((sides[v] - 1 - column if mirrored else column) + .5) * width / sides[v]])

    def matches(v, w, by):
        """Of each image, pairs of a place of view v and the place of view w that is nearest to it."""
        pairs = [[], []]
        for b in range(B):
            d = np.array([[np.sum((place(b, v, n) - place(b, w, m)) ** 2 if by == "place" else (maps[v][b, n] - maps[w][b, m]) ** 2)
                           for m in range(sides[w] ** 2)] for n in range(sides[v] ** 2)])
            kept = sorted(np.argsort(d.min(1), kind="stable")[:counts[v]])
            pairs[0].append(maps[v][b, kept])
            pairs[1].append(maps[w][b, d.argmin(1)[kept]])
        return map(np.stack, pairs)

    def terms(x, y):
        return 5 * np.mean((x - y) ** 2) + 3 * (variance(x) + variance(y)) / 2 + 2 * (covariance(x) + covariance(y)) / 4
    pairs = [(v, w) for v in range(2) for w in range(3) if v != w]
    return np.mean([(terms(*matches(v, w, by)) + terms(*matches(w, v, by))) / 2 for v, w in pairs for by in ("place", "embedding")]) * 2


def jax_vicregl(maps, crop, boxes):
    sides = ("top", "left", "height", "width")
    return matching.vicregl([maps[:, 0], maps[:, 1], crop[:, 0]], [{name: boxes[:, v, i].astype(int) for i, name in enumerate(sides)} for v in range(3)],
                            [boxes[:, v, 4] > 0 for v in range(3)], 2, matches=(5, 5, 2), sim=5., std=3., cov=2.)


def boxed(rng):
    """Boxes whose sides share few factors, so that hardly two distances are equal."""
    boxes = np.concatenate([rng.integers(0, 97, (B, 3, 2)), rng.integers(101, 211, (B, 3, 2)), rng.integers(0, 2, (B, 3, 1))], -1)
    return [rng.normal(size=(B, 2, 9, 4)), rng.normal(size=(B, 1, 4, 4)), boxes * 1.]


def sigreg(z, directions):
    values = []
    for v in range(z.shape[1]):
        for a in directions.T:
            x, total = z[:, v] @ a / np.sqrt(a @ a), 0.
            for n in range(17):
                t = 3 * n / 16
                total += (1 if n in (0, 16) else 2) * 3 / 16 * np.exp(-t * t / 2) * ((np.cos(t * x).mean() - np.exp(-t * t / 2)) ** 2 + np.sin(t * x).mean() ** 2)
            values.append(B * total)
    return np.mean(values)


def moving_correlation(c, z):
    return .3 * c + .7 * np.mean([np.outer(row, row) for row in z.reshape(-1, z.shape[-1])], 0)


def predictor(c, power):
    s, u = np.linalg.eigh((c + c.T) / 2)
    return sum(((max(s[k], 0) / s[-1]) ** power + .01) * np.outer(u[:, k], u[:, k]) for k in range(len(s)))


def coding_rate(z):
    K = z.shape[2]
    return np.mean([np.linalg.slogdet(np.eye(K) + K / B / .05 * z[:, v].T @ z[:, v])[1] / 2 for v in range(z.shape[1])])


def kmeans(bank, weight, centroids):
    centroids = np.array([c / np.sqrt(c @ c) for c in centroids])
    for _ in range(3):
        own = [np.argmax(centroids @ row) for row in bank]
        for c in range(len(centroids)):
            if near := [row for row, k, w in zip(bank, own, weight) if k == c and w]:
                centroids[c] = np.sum(near, 0) / np.linalg.norm(np.sum(near, 0))
    return centroids


def dealt(bank, weight, prototypes):
    """Shares as `sinkhorn` deals them: softmax(logits + shift); the shift is known up to a number."""
    shares = sinkhorn(bank @ prototypes.T, .3, 4, weight)[np.flatnonzero(weight)[0]]
    shift = np.log(shares) - bank[np.flatnonzero(weight)[0]] @ prototypes.T / .3
    return shift - shift.mean()


def moved(groups, z):
    own = [np.argmax([cosine(row, g) for g in groups]) for row in z]
    return np.array([.9 * g + .1 * np.mean(z[np.array(own) == c], 0) if c in own else g for c, g in enumerate(groups)])


def labelled(logits, labels):
    return np.mean([-log_softmax(logits[b, v, h] / .1)[labels[b, h]] for b, v, h in np.ndindex(logits.shape[:3])])


def bank_rows(rng):
    return [rng.normal(size=(B, 6)), rng.random(B) < .8, rng.normal(size=(5, 6))]


def spread(rng):
    """Some dimensions vary more than 1, some less."""
    return [rng.normal(size=(B, 3, 6)) * np.array([.1, .5, .9, 1.2, 2., 4.])]


def anchored(z, of):
    """Mean over anchors of the mean over their positives of `of`(cosine with the positive, cosines with all negatives)."""
    V, z = z.shape[1], np.stack([row / np.sqrt(row @ row) for row in z.reshape(-1, z.shape[-1])])
    image = np.arange(len(z)) // V
    return np.mean([np.mean([of(z[i] @ z[p], z[image != image[i]] @ z[i]) for p in range(len(z)) if p != i and image[p] == image[i]]) for i in range(len(z))])


def decoupled(z, T):
    return anchored(z, lambda p, n: np.log(np.exp(n / T).sum()) - p / T)


def dclw(z, T, sigma):
    def alike(b, v, w):
        return np.exp(cosine(z[b, v], z[b, w]) / sigma)
    V, values = z.shape[1], []
    for b, v in np.ndindex(len(z), V):
        lse = np.log(sum(np.exp(cosine(z[b, v], z[c, w]) / T) for c, w in np.ndindex(len(z), V) if c != b))
        values += [lse - (2 - alike(b, v, w) / np.mean([alike(c, v, w) for c in range(len(z))])) * cosine(z[b, v], z[b, w]) / T for w in range(V) if w != v]
    return np.mean(values)


# A class of three, one of one, and images without a label.
LABELS = np.array([0, 1, 2, 0, -1, 2, 2, 0, 3, -1, 5, 5, 1, -1, 2, 1])


def sup_con(z, labels, T):
    V, z = z.shape[1], np.stack([row / np.sqrt(row @ row) for row in z.reshape(-1, z.shape[-1])])
    values = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        lse = np.log(sum(np.exp(z[i] @ z[j] / T) for j in others))
        values.append(np.mean([lse - z[i] @ z[j] / T for j in others if j // V == i // V or labels[j // V] == labels[i // V] >= 0]))
    return np.mean(values)


# φ and ψ as the paper's table 1 has them, temperature .5 and margin .2.
FAMILY = {"infonce": (lambda x: .5 * np.log(1 + x), lambda x: np.exp(x / .5)), "dcl": (lambda x: .5 * np.log(x), lambda x: np.exp(x / .5)),
          "triplet": (lambda x: x, lambda x: np.maximum(x + .2, 0)), "soft_triplet": (lambda x: .5 * np.log(1 + x), lambda x: np.exp(x / .5 + .2)),
          "tuplet": (lambda x: np.log(1 + x), np.exp), "lifted": (lambda x: np.maximum(np.log(x), 0) ** 2, lambda x: np.exp(x + .2))}


def family(name, block=0):
    phi, psi = FAMILY[name]
    return Case(f"phi_psi, {name}{' in parts' * bool(block)}",
                lambda z: unified.phi_psi(z, unified.FAMILY[name](.5, .2), block=block), lambda z: anchored(z, lambda p, n: phi(psi(n - p).sum())),
                normal((B, 3 if name == "tuplet" else 2, 5)))


def of_others(ids, b):
    """The queue's rows that are of another image, by number."""
    return [m for m in range(len(KEYS)) if QUEUED[m] != ids[b]]


def neighbours(z, ids, count):
    near = [[sorted(of_others(ids, b), key=lambda m: -cosine(z[b, v], KEYS[m]))[:count] for v in range(z.shape[1])] for b in range(len(z))]
    return KEYS[np.array(near)] / np.linalg.norm(KEYS, axis=1)[np.array(near)][..., None]


def mean_shift(q, target, near):
    return np.mean([np.mean([2 - 2 * cosine(q[b, v], x) for x in (target[b, v], *near[b, v])]) for b, v in np.ndindex(q.shape[:2])])


def relational(q, k, ids):
    def logp(x, b, T):
        return log_softmax(np.array([cosine(x, KEYS[m]) for m in of_others(ids, b)]) / T)
    return np.mean([-np.exp(logp(k[b, v], b, .1)) @ logp(q[b, v], b, .3) for b, v in np.ndindex(q.shape[:2])])


def corresponding(a, b, values):
    return np.stack([[values[i, max(range(b.shape[1]), key=lambda m: cosine(place, b[i, m]))] for place in a[i]] for i in range(B)])


# Image 3 stands twice in the batch; second views of numbers 4 and 8 show number 0 beside their own.
COPIED = np.array([0, 1, 2, 3, 4, 3, *range(6, 16)])


def shown(ids):
    other = jnp.where((ids == 4) | (ids == 8), 0, ids)
    return jnp.stack([jnp.stack([ids, ids], 1), jnp.stack([ids, other], 1)], -1)                   # [B, V, 2]: the first view's own twice


def copies(z, ids):
    rows, total = unit_rows(z.reshape(-1, z.shape[-1])), 0.
    of = [{int(i)} | ({0} if v and i in (4, 8) else set()) for i in ids for v in range(2)]
    for i, row in enumerate(rows):
        others = [k for k in range(len(rows)) if not of[k] & of[i]]
        repelled = sum(np.exp(row @ rows[k] / .2) for k in others)
        total += np.mean([np.log(1 + repelled / np.exp(row @ rows[j] / .2)) for j in range(len(rows)) if j != i and of[j] & of[i]])
        total -= np.log(min(np.linalg.norm(row - rows[k]) for k in others))
    return total / len(rows)


def queued(function, **how):
    """A loss on the queue above, of arrays and then the ids."""
    return lambda *x: function(*x[:-1], jnp.float32(KEYS), ids=x[-1].astype(int), queue_ids=jnp.asarray(QUEUED), **how)


# A bank of 20 rows of which 17 are of images; image 3 stands twice in the batch and twice among those drawn.
BANKED, DRAWN, BANK = np.array([0, 5, 3, 7, 16, 3, *range(8, 16), 1, 2]), np.array([3, 9, 3, 0, 12]), np.random.default_rng(6).normal(size=(20, 6))


def instance(q, ids, noise):
    values = []
    for b, v in np.ndindex(q.shape[:2]):
        own = cosine(q[b, v], BANK[int(ids[b])]) / .2
        if noise:
            p, against = np.exp(own) / 9., [np.exp(cosine(q[b, v], BANK[i]) / .2) / 9. for i in DRAWN if i != ids[b]]
            values.append(-np.log(p / (p + 5 / 17)) - sum(np.log(5 / 17 / (x + 5 / 17)) for x in against))
        else:
            values.append(np.log(sum(np.exp(cosine(q[b, v], BANK[i]) / .2) for i in range(17))) - own)
    return np.mean(values)


def renewed(z, ids):
    out = BANK.copy()
    for i in set(ids.astype(int)):
        said = np.mean([z[b, v] / np.sqrt(z[b, v] @ z[b, v]) for b, v in np.ndindex(z.shape[:2]) if ids[b] == i], 0)
        row = .7 * BANK[i] + .3 * said
        out[i] = row / np.sqrt(row @ row)
    return out


def banked(function, **how):
    return lambda q, ids: function(q, jnp.float32(BANK), ids=ids.astype(int) % 17, **how)


def with_ids(rng):
    return [rng.normal(size=(B, 2, 6)), BANKED * 1.]


def koleo(z):
    total = 0.
    for v in range(z.shape[1]):
        x = unit_rows(z[:, v])
        for i in range(B):
            near = max((j for j in range(B) if j != i), key=lambda j: x[i] @ x[j])
            total -= np.log(np.linalg.norm(x[i] - x[near] + 1e-8) + 1e-8)
    return total / B / z.shape[1]


def gram(s, t):
    return np.mean([(cosine(s[b, p], s[b, q]) - cosine(t[b, p], t[b, q])) ** 2 for b in range(B) for p, q in np.ndindex(s.shape[1], s.shape[1])])


def token_loop(s, t, w):
    return sum(w[i] * -t[i] @ log_softmax(s[i] / .1) for i in range(B) if w[i])


def padded(rng):
    return [rng.normal(size=(B, 7)), simplex(rng, B, 7), rng.random(B) * (rng.random(B) < .7)]


CONTRASTIVE = [
    Case("dcl", functools.partial(contrastive.dcl, temperature=.2), lambda z: decoupled(z, .2), normal((B, 2, 8))),
    # Its weights have no gradient, so that it is not the slope of the loop; the golden has both.
    Case("dclw, 3 views", lambda z: contrastive.dcl(jax.lax.stop_gradient(z), temperature=.2, sigma=.5), lambda z: dclw(z, .2, .5), normal((B, 3, 8)), ()),
    Case("dcl, 3 views in tiles", functools.partial(contrastive.dcl, temperature=.1, block=7), lambda z: decoupled(z, .1), normal((B, 3, 8))),
    Case("sup_con", lambda z, y: contrastive.sup_con(z, y.astype(int), classes=6, temperature=.2), lambda z, y: sup_con(z, y, .2),
         lambda rng: [rng.normal(size=(B, 2, 6)), LABELS * 1.]),
    Case("sup_con, 3 views in tiles", lambda z, y: contrastive.sup_con(z, y.astype(int), classes=6, temperature=.1, block=7), lambda z, y: sup_con(z, y, .1),
         lambda rng: [rng.normal(size=(B, 3, 6)), LABELS * 1.]),
    *map(family, FAMILY),
    family("lifted", block=7),
    Case("nearest", queued(lambda *x, **how: dictionary.nearest(*x, count=2, **how)[0]), lambda z, ids: neighbours(z, ids, 2),
         lambda rng: [rng.normal(size=(B, 2, 6)), np.arange(B) * 1.], ()),
    Case("neighbour_nce", lambda p, n: dictionary.neighbour_nce(n, p, temperature=.2)[0],
         lambda p, n: np.mean([-log_softmax(np.array([cosine(n[b, v], p[c, v]) for c in range(B)]) / .2)[b] for b, v in np.ndindex(B, 2)]), normal((B, 2, 6), (B, 2, 6))),
    Case("mean_shift", dictionary.mean_shift, mean_shift, normal((B, 2, 6), (B, 2, 6), (B, 2, 3, 6))),
    Case("mean_shift, no neighbours", lambda q, t: dictionary.mean_shift(q, t, t[:, :, None][:, :, :0]), lambda q, t: mean_shift(q, t, q[:, :, None][:, :, :0]),
         normal((B, 1, 6), (B, 1, 6))),
    Case("relational", queued(lambda *x, **how: dictionary.relational(*x, student_temp=.3, teacher_temp=.1, **how)[0]), relational,
         lambda rng: [rng.normal(size=(B, 2, 6)), rng.normal(size=(B, 2, 6)), np.arange(B) * 1.]),
    Case("relational, a view of the teacher for two", queued(lambda *x, **how: dictionary.relational(*x, student_temp=.3, teacher_temp=.1, **how)[0]),
         lambda q, k, ids: relational(q, np.repeat(k, 2, 1), ids), lambda rng: [rng.normal(size=(B, 2, 6)), rng.normal(size=(B, 1, 6)), np.arange(B) * 1.]),
    Case("corresponding", matching.corresponding, corresponding, normal((B, 4, 5), (B, 6, 5), (B, 6, 3)), ()),
    Case("copies", lambda z, ids: sum(copying.copies(z, shown(ids.astype(int)), temperature=.2)[:2]), copies, lambda rng: [rng.normal(size=(B, 2, 6)), COPIED * 1.]),
    Case("bank softmax", banked(discrimination.softmax, examples=17, temperature=.2), lambda q, ids: instance(q, ids, False), with_ids),
    Case("bank nce", banked(discrimination.nce, drawn=jnp.asarray(DRAWN), examples=17, temperature=.2, log_z=jnp.log(9.)), lambda q, ids: instance(q, ids, True), with_ids),
    Case("bank renewed", lambda z, ids: discrimination.renewed(jnp.float32(BANK), z, ids.astype(int) % 17, .7), renewed, with_ids, ()),
]

CASES = [
    *CONTRASTIVE,
    Case("nt_xent", functools.partial(contrastive.nt_xent, temperature=.2), lambda z: nt_xent(z, .2), normal((B, 2, 8))),
    Case("nt_xent, 3 views in tiles", functools.partial(contrastive.nt_xent, temperature=.1, block=7), lambda z: nt_xent(z, .1), normal((B, 3, 8))),
    Case("cosine_regression", distillation.cosine_regression, regression, normal((B, 2, 8), (B, 2, 8))),
    Case("cosine_regression, 2 + 1 views", distillation.cosine_regression, regression, normal((B, 3, 4), (B, 2, 4))),
    Case("cross_entropy, 2 + 2 views", functools.partial(distillation.cross_entropy, student_temp=.1), lambda s, t: cross_entropy(s, t, .1),
         lambda rng: [rng.normal(size=(B, 4, 7)), simplex(rng, B, 2, 7)]),
    Case("cross_entropy, one teacher view", functools.partial(distillation.cross_entropy, student_temp=1.), lambda s, t: cross_entropy(s, t, 1.),
         lambda rng: [rng.normal(size=(B, 3, 5)), simplex(rng, B, 1, 5)]),
    Case("cross_entropy, local crops weigh half", functools.partial(distillation.cross_entropy, student_temp=.1, weights=[1., 1., .5]),
         lambda s, t: np.sum([(.5 if i == 2 else 1.) * -t[b, j] @ log_softmax(s[b, i] / .1) for b in range(B) for j in range(2) for i in range(3) if i != j]) / B / 4,
         lambda rng: [rng.normal(size=(B, 3, 7)), simplex(rng, B, 2, 7)]),
    Case("token_cross_entropy", functools.partial(distillation.token_cross_entropy, student_temp=.1), token_loop, padded, learned=(0, 2)),
    Case("koleo", lambda z: spreading.koleo(z)[0], koleo, normal((B, 2, 5))),
    Case("gram", spreading.gram, gram, normal((B, 4, 5), (B, 4, 6))),
    Case("mean_prior", lambda z: spreading.mean_prior(jax.nn.softmax(z.astype(jnp.float32)), spreading.power_law(6, .5)),
         lambda z: (lambda p, q: sum(p * np.log(p / q)))(np.mean([np.exp(log_softmax(r)) for r in z.reshape(-1, 6)], 0), spreading.power_law(6, .5)), normal((B, 2, 6))),
    Case("update_center, padded", lambda c, x, w: distillation.update_center(c, x, .9, w), lambda c, x, w: .9 * c + .1 * x[w].mean(0),
         lambda rng: [rng.normal(size=6), rng.normal(size=(B, 6)), rng.random(B) < .6], ()),
    Case("swapped prediction", jax_swapped, swapped, lambda rng: [rng.uniform(-1, 1, (B, 3, 6)), rng.uniform(-1, 1, (B, 2, 6))]),
    Case("swapped prediction in parts", jax_swapped_in_parts, lambda s, whole=None: swapped(s, s[:, :2] if whole is None else whole),
         lambda rng: [rng.uniform(-1, 1, (B, 3, 6))], held=lambda s: {"whole": s[:, :2]}),
    Case("centered", functools.partial(distillation.centered, temp=.07), lambda t, c: centered(t, c, .07), normal((B, 2, 6), (6,)), ()),
    Case("update_center", functools.partial(distillation.update_center, momentum=.9), lambda c, x: .9 * c + .1 * x.reshape(-1, 6).mean(0),
         normal((6,), (B, 2, 6)), ()),
    Case("sinkhorn", functools.partial(distillation.sinkhorn, temp=.3), lambda x: sinkhorn(x, .3, 3), normal((B, 2, 6)), ()),
    Case("sinkhorn, padded", lambda x, w: distillation.sinkhorn(x, temp=.3, iterations=5, weight=w), lambda x, w: sinkhorn(x, .3, 5, w),
         lambda rng: [rng.normal(size=(B, 3, 6)), rng.random((B, 3)) < .6], ()),
    Case("distillation_metrics", jax_entropies, entropies, lambda rng: [rng.normal(size=(B, 4, 7)), simplex(rng, B, 2, 7)], ()),
    Case("pixel_mse", masked.pixel_mse, lambda *x: pixels(*x, np.square, True), hidden),
    Case("pixel_mse, raw", functools.partial(masked.pixel_mse, normalise=False), lambda *x: pixels(*x, np.square, False), hidden),
    Case("latent_smooth_l1", functools.partial(masked.latent_smooth_l1, beta=1.), lambda *x: latents(*x, smooth(1)), weighed),
    Case("latent_smooth_l1, beta 2", functools.partial(masked.latent_smooth_l1, beta=2.), lambda *x: latents(*x, smooth(2)), weighed),
    Case("latent_mse", masked.latent_mse, lambda *x: latents(*x, lambda e: e @ e / np.sqrt(len(e))), weighed),
    Case("next_embedding", masked.next_embedding, lambda x, y: -np.mean([cosine(x[b, n], y[b, n]) for b, n in np.ndindex(B, 5)]), normal((B, 5, 6), (B, 5, 6))),
    Case("layers_target", masked.layers_target, tokens_told, normal((B, 5, 3, 6)), ()),
    Case("token_cross_entropy", lambda x, y, m: masked.token_cross_entropy(x, y.argmax(-1), m), lambda x, y, m: token_entropy(x, y.argmax(-1), m),
         lambda rng: [rng.normal(size=(B, 5, 7)), rng.normal(size=(B, 5, 7)), rng.random((B, 5)) < .5]),
    Case("quantisation", functools.partial(masked.quantisation, commitment=.25), quantised, normal((B, 5, 8), (B, 5, 8), (B, 5, 4), (B, 5, 4)), (1, 2, 3),
         held=lambda target, pixels, z, codes: {"held": (z, codes)}),
    Case("pixel_l1", masked.pixel_l1, lambda *x: pixels(*x, np.abs, False), hidden),
    Case("invariance", redundancy.invariance, invariance, normal((B, 3, 4))),
    Case("variance", redundancy.variance, variance, spread),
    Case("covariance", redundancy.covariance, covariance, spread),
    Case("barlow_twins", lambda z: redundancy.barlow_twins(z, redundancy=.1)[0], lambda z: barlow(z, .1), normal((B, 2, 5))),
    Case("barlow_twins in parts, 3 views", lambda z: redundancy.barlow_twins(z, redundancy=.1, block=5)[0], lambda z: barlow(z, .1), normal((B, 3, 5))),
    Case("vicreg in parts", lambda z: weighed_terms(redundancy.vicreg(z, block=5)), lambda z: 5 * invariance(z) + 3 * variance(z) + 2 * covariance(z), spread),
    Case("vicreg", lambda z: weighed_terms(redundancy.vicreg(z)), lambda z: 5 * invariance(z) + 3 * variance(z) + 2 * covariance(z), spread),
    Case("sigreg in parts", lambda z, a: redundancy.sigreg(z, jax.lax.stop_gradient(a), block=6), sigreg, normal((B, 2, 5), (5, 3))),
    Case("barlow_twins, 3 views", lambda z: redundancy.barlow_twins(z, redundancy=.1)[0], lambda z: barlow(z, .1), normal((B, 3, 4))),
    Case("distance", lambda z: redundancy.distance(z, 2), lambda z: distance(z, 2), normal((B, 3, 4))),
    Case("correlation", redundancy.correlation, correlations, spread),
    Case("tico", lambda p, z: redundancy.tico(p, z, jnp.float32(AVERAGE), contrast=8., decay=.9)[0], tico, normal((B, 2, 4), (B, 2, 4)),
         held=lambda p, z: {"batch": newest(p)}),
    Case("mmcr", lambda z, t: spectral.mmcr(z, t)[0], lambda z, t: mmcr(z, t, 0), normal((B, 2, 6), (B, 2, 6))),
    Case("mmcr, alone, weighed, wide", lambda z: spectral.mmcr(z, weight=.5)[0], lambda z: mmcr(z, None, .5), normal((B, 3, 24))),
    Case("wmse", lambda z, place: spectral.wmse(z, jnp.argsort(jnp.argsort(place)) // 8, size=8), lambda z, place: wmse(z, place, 8),
         lambda rng: [rng.normal(size=(B, 3, 3)) + rng.normal(size=(B, 1, 3)), rng.permutation(B) * 1.]),
    Case("visreg", lambda z, a: sum(redundancy.visreg(z, jax.lax.stop_gradient(a)).values()), visreg, normal((B, 2, 5), (5, 3)),
         held=lambda z, a: {"deviations": z.std(0)}),
    Case("invariance, 2 whole of 3 views", lambda z: redundancy.invariance(z, 2),
         lambda z: np.mean([np.mean((z[:, v] - z[:, w]) ** 2) for v in range(2) for w in range(3) if v != w]), normal((B, 3, 4))),
    Case("vicregl", jax_vicregl, vicregl, boxed, learned=(0, 1)),
    Case("queue_nce", lambda q, k, ids: dictionary.queue_nce(q, k, jnp.float32(KEYS), ids=ids.astype(int), queue_ids=jnp.asarray(QUEUED), temperature=.2)[0],
         lambda q, k, ids: nce(q, k, lambda b, v: KEYS[QUEUED != ids[b]], .2), lambda rng: [rng.normal(size=(B, 2, 6)), rng.normal(size=(B, 2, 6)), np.arange(B) * 1.]),
    Case("batch_nce", lambda q, k: dictionary.batch_nce(q, k, temperature=.2)[0], lambda q, k: nce(q, k, lambda b, v: np.delete(k[:, v], b, 0), .2), normal((B, 2, 6), (B, 2, 6))),
    Case("update_correlation", functools.partial(correlation.update_correlation, momentum=.3), moving_correlation, normal((5, 5), (B, 2, 5)), ()),
    Case("direct_predictor", lambda c: correlation.direct_predictor(c @ c.T, power=.5, epsilon=.01)[0], lambda c: predictor(c @ c.T, .5), normal((5, 9)), ()),
    Case("coding_rate", functools.partial(correlation.coding_rate, epsilon=.05), coding_rate, normal((B, 2, 5))),
    Case("spherical_kmeans", functools.partial(clustering.spherical_kmeans, iterations=3), kmeans, bank_rows, ()),
    Case("equal_shares", functools.partial(clustering.equal_shares, temp=.3, iterations=4), dealt, bank_rows, ()),
    Case("momentum_groups", lambda g, z: jnp.square(clustering.momentum_groups(g, z, momentum=.9)).sum(), lambda g, z: np.square(moved(g, z)).sum(), normal((5, 6), (B, 6)), (1,)),
    Case("hard_cross_entropy", lambda x, y: clustering.hard_cross_entropy(x, y.argmax(-1), temperature=.1), lambda x, y: labelled(x, y.argmax(-1)),
         normal((B, 2, 3, 5), (B, 3, 5))),
    Case("sigreg", lambda z, a: redundancy.sigreg(z, jax.lax.stop_gradient(a)), sigreg, normal((B, 2, 5), (5, 3))),
]
every_loss = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))


def arrays(case, scale=1., dtype=np.float32):
    drawn = case.inputs(np.random.default_rng(len(case.name)))
    return [x if x.dtype == bool else np.asarray(scale * x, dtype) for x in drawn]


def floats(x):
    return tuple(i for i, a in enumerate(x) if a.dtype != bool)


@functools.cache
def compiled(case):
    """arrays → the result, and the gradients of the sum of its squares (of a scalar, its own) with respect to all floats."""
    def total(*x):
        out = case.function(*x)
        return (out if out.ndim == 0 else jnp.sum(out ** 2)), out

    def both(*x):
        grads, out = jax.grad(total, argnums=floats(x), has_aux=True)(*x)
        return out, grads
    return jax.jit(both)


def assert_near(got, want, tolerance=1e-5):
    """Relative to each element of a scalar, to the largest of an array: rounding is of that size."""
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max() * (np.ndim(want) > 0))


@every_loss
def test_equals_the_loop(case):
    x = arrays(case)
    assert_near(compiled(case)(*x)[0], case.oracle(*(a if a.dtype == bool else np.float64(a) for a in x)))


@every_loss
def test_gradient_is_the_slope_of_the_loop(case):
    """Along random directions, one for each array; and no gradient at all to what a loss takes for given."""
    x, rng, h = arrays(case), np.random.default_rng(1), 1e-6
    held = case.held(*map(np.float64, x))
    for i, grad in zip(floats(x), compiled(case)(*x)[1]):
        if i not in case.learned:
            assert not np.any(grad), f"array {i} gets a gradient"
            continue
        for d in rng.normal(size=(3, *x[i].shape)):
            ends = [case.oracle(*(np.float64(a) + sign * h * d if j == i else a for j, a in enumerate(x)), **held) for sign in (-1, 1)]
            np.testing.assert_allclose(np.sum(np.float64(grad) * d), (ends[1] - ends[0]) / (2 * h), rtol=1e-4, atol=1e-5 * np.linalg.norm(grad))


def test_gradients_to_targets_are_looked_for():
    """The check above fails for a loss that lets its target learn."""
    leaky = Case("leaky", lambda p, z: jnp.mean((p - z) ** 2), lambda p, z: np.mean((p - z) ** 2), normal((B, 3), (B, 3)))
    with pytest.raises(AssertionError, match="array 1 gets a gradient"):
        test_gradient_is_the_slope_of_the_loop(leaky)


@every_loss
def test_order_of_images_does_not_matter(case):
    x, order = arrays(case), np.random.default_rng(2).permutation(B)
    on_batch = [len(a) == B for a in x]
    out, grads = compiled(case)(*x)
    moved, moved_grads = compiled(case)(*(a[order] if batch else a for a, batch in zip(x, on_batch)))
    assert_near(moved, out[order] if out.shape[:1] == (B,) else out, 2e-6)
    for i, grad, other in zip(floats(x), grads, moved_grads):
        assert_near(other, grad[order] if on_batch[i] else grad, 2e-6)


@every_loss
def test_eight_devices_equal_one(case):
    """Batch axes in slices, everything else whole; what comes back on the batch axis lies there still, but for losses in parts, which are meant for one device."""
    mesh, x = jax.make_mesh(MESH, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2), arrays(case)
    places = [NamedSharding(mesh, P(("data", "fsdp")) if len(a) == B else P()) for a in x]
    got = compiled(case)(*(jax.device_put(a, place) for a, place in zip(x, places)))
    jax.tree.map(assert_near, got, compiled(case)(*x))
    for i, grad in zip(floats(x), got[1]):
        assert i not in case.learned or "in parts" in case.name or grad.sharding.is_equivalent_to(places[i], grad.ndim)


@every_loss
def test_bfloat16_is_computed_in_float32(case):
    """Inputs a hundred times as large, so that logits reach thousands: finite, and what float32 makes of the same numbers."""
    x = arrays(case, scale=100., dtype=jnp.bfloat16)
    out, grads = compiled(case)(*x)
    want = compiled(case)(*(a if a.dtype == bool else a.astype(np.float32) for a in x))[0]
    assert out.dtype == jnp.float32 and all(g.dtype == jnp.bfloat16 for g in grads)
    assert np.isfinite(out).all() and all(np.isfinite(g.astype(np.float32)).all() for g in grads)
    assert_near(out, want)


def dino(g, student):
    return distillation.cross_entropy(student, distillation.centered(g["teacher"], g["center_before"], .04), student_temp=.1)


# name → ours, from the file's arrays and the one that is differentiated; that array; then what lightly's value and gradient are multiplied by and what is added
GRADED = {
    # The mean over views of -cos, where ours is that of 2 - 2 cos.
    "byol": (lambda g, p: distillation.cosine_regression(p, g["z"]), "p", 2., 2.),
    # lightly moves the center in the same call, after its use.
    "dino": (dino, "student", 1., 0.),
    # lightly takes the codes from the student's whole views; ours from whatever the caller gives.
    "swav": (lambda g, s: jax_swapped(s, jax.lax.stop_gradient(s[:, :2])), "student", 1., 0.),
    "mae": (lambda g, x: masked.pixel_mse(x, masked.patches(g["images"], 2), g["mask"]), "prediction", 1., 0.),
    "simmim": (lambda g, x: masked.pixel_l1(x, masked.patches(g["images"], 2), g["mask"]), "prediction", 1., 0.),
    "vicreg": (lambda g, z: 25 * redundancy.invariance(z) + 25 * redundancy.variance(z) + redundancy.covariance(z), "p", 1., 0.),
    "barlow_twins": (lambda g, z: redundancy.barlow_twins(z, redundancy=.0051)[0], "p", 1., 0.),
    "sigreg": (lambda g, z: redundancy.sigreg(z, g["directions"]), "student", 1., 0.),
}
PLAIN = {
    "center": lambda g: distillation.update_center(g["center_before"], g["teacher"], .9),
    "sinkhorn": lambda g: distillation.sinkhorn(g["teacher"], temp=.05),
    "patches": lambda g: masked.patches(g["images"], 2),
}


@functools.cache
def goldens():
    """tests/goldens/make_losses.py made them; float32 but for the mask."""
    with np.load(Path(__file__).parent / "goldens" / "losses.npz", allow_pickle=False) as file:
        return {name: jnp.asarray(file[name], None if file[name].dtype == bool else jnp.float32) for name in file.files}


@pytest.mark.parametrize("name", [*GRADED, *PLAIN])
def test_golden_of_lightly(name):
    g = goldens()
    if name in PLAIN:
        return assert_near(jax.jit(PLAIN[name])(g), g[name])
    ours, predicted, times, plus = GRADED[name]
    value, grad = jax.jit(jax.value_and_grad(lambda x: ours(g, x)))(g[predicted])
    assert_near(value, times * g[name] + plus)
    assert_near(grad, times * g[f"grad_{name}"])


def test_every_golden_is_compared():
    made = {"p", "z", "student", "teacher", "center_before", "images", "prediction", "mask", "directions"}
    assert set(goldens()) == made | set(PLAIN) | set(GRADED) | {f"grad_{name}" for name in GRADED}
