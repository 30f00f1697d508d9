"""Metric-learning losses as loops in numpy float64, one pair or triplet after another. A weight of 2 is the pair listed twice; what a loss leaves out is not in the lists."""
from typing import NamedTuple

import numpy as np


class Sets(NamedTuple):
    """anchors: numbers of rows, each as often as it stands. pos, neg: of each row, the numbers of its candidates, each as often as the pair stands."""
    z: np.ndarray
    others: np.ndarray
    cos: np.ndarray
    anchors: list
    pos: list
    neg: list
    label: np.ndarray
    kind: np.ndarray
    age: np.ndarray          # [R], of the candidates, and of the rows:
    row_age: np.ndarray
    held: np.ndarray         # cosines that gradients take for given

    @property
    def d(self):
        return np.sqrt(np.maximum(2 - 2 * self.cos, 0))

    def means(self, terms):
        return [sum(x) / max(len(x), 1) for x in terms]

    def with_positives(self):
        return [i for i in self.anchors if self.pos[i]]

    def pairs(self):
        return [(i, j) for i in self.anchors for j in self.pos[i]]

    def against(self):
        return [(i, k) for i in self.anchors for k in self.neg[i]]

    def triplets(self):
        return [(i, j, k) for i in self.anchors for j in self.pos[i] for k in self.neg[i]]


def unit(x):
    return np.array([row / max(np.sqrt(row @ row), 1e-6) for row in x])


def sets(z, label, id=None, reference=None, weight=None, held=None):
    others, kind, name = (z, label, id) if reference is None else reference
    B, R = len(z), len(others)
    pos, neg = [[] for _ in range(B)], [[] for _ in range(B)]
    for i in range(B):
        for j in range(R):
            own = reference is None and i == j or id is not None and id[i] == name[j] >= 0
            times = int(weight[i, j]) if weight is not None and weight.ndim == 2 else 1
            if label[i] >= 0 and kind[j] >= 0 and not own:
                (pos if label[i] == kind[j] else neg)[i] += [j] * times
    anchors = [i for i in range(B) if label[i] >= 0 for _ in range(int(weight[i]) if weight is not None and weight.ndim == 1 else 1)]
    cos = unit(z) @ unit(others).T
    return Sets(z, others, cos, anchors, pos, neg, label, kind, np.arange(R) if name is None else name, np.arange(B) if id is None else id, cos if held is None else held)


def mean(x):
    return sum(x) / max(len(x), 1)


def active(x):
    return mean([v for v in x if v > 0])


def lse(x):
    x = np.array(x)
    return x.max() + np.log(np.exp(x - x.max()).sum()) if len(x) else -np.inf


def contrastive(s, d=None, low=0., high=1.):
    d = s.d if d is None else d
    return active([max(0, d[i, j] - low) for i, j in s.pairs()]) + active([max(0, high - d[i, k]) for i, k in s.against()])


def snr(s):
    a, b = unit(s.z), unit(s.others)
    d = np.array([[np.var(x - y) / np.var(x) for y in b] for x in a])
    return contrastive(s, d, .1, .9) + .3 * mean([abs(s.z[i].sum()) for i in s.anchors])


def tcm(s):
    return 2 * mean([.9 - s.cos[i, j] for i, j in s.pairs() if s.cos[i, j] <= .9]) + 3 * mean([s.cos[i, k] - .1 for i, k in s.against() if s.cos[i, k] >= .1])


def margin(s, beta=np.float64(1.2), nu=0.):
    at = (lambda i: beta[s.label[i]]) if beta.ndim else lambda i: beta
    terms = [x for i, j, k in s.triplets() for x in (max(0, s.d[i, j] - at(i) + .2), max(0, at(i) - s.d[i, k] + .2))]
    count = max(sum(x > 0 for x in terms), 1)
    return sum(terms) / count + (nu * sum(at(i) for i, _, _ in s.triplets()) / count if beta.ndim else nu * float(beta) * bool(terms))


def triplet(s, smooth=False, swap=False):
    between = np.sqrt(np.maximum(2 - 2 * unit(s.others) @ unit(s.others).T, 0))
    x = [s.d[i, j] - (min(s.d[i, k], between[j, k]) if swap else s.d[i, k]) + .05 for i, j, k in s.triplets()]
    return mean([np.log(1 + np.exp(v)) for v in x]) if smooth else active([max(0, v) for v in x])


def phi_psi(s, phi, psi):
    return mean([mean([phi(sum(psi(s.cos[i, k] - s.cos[i, j]) for k in s.neg[i])) for j in s.pos[i]]) for i in s.with_positives() if s.neg[i]])


def nt_xent(s, t=.07):
    return mean([lse([s.cos[i, j] / t, *(s.cos[i, k] / t for k in s.neg[i])]) - s.cos[i, j] / t for i, j in s.pairs()])


def tuplet(s, degrees=5.73, scale=64.):
    return mean([lse([0., *(scale * (s.cos[i, k] - np.cos(np.arccos(s.cos[i, j]) - np.radians(degrees))) for k in s.neg[i])]) for i, j in s.pairs()])


def sup_con(s, t=.1):
    return mean([mean([lse([s.cos[i, k] / t for k in s.pos[i] + s.neg[i]]) - s.cos[i, j] / t for j in s.pos[i]]) for i in s.with_positives()])


def nca(s):
    share = np.exp(-s.d**2)
    return mean([-np.log(sum(share[i, j] for j in s.pos[i]) / sum(share[i, k] for k in s.pos[i] + s.neg[i])) for i in s.with_positives()])


def n_pairs(s, normalise=True):
    products, chosen = s.cos if normalise else s.z @ s.others.T, {}
    for i in sorted(s.with_positives(), key=lambda i: (s.row_age[i], i)):
        chosen.setdefault(s.label[i], (i, min(s.pos[i], key=lambda j: (s.age[j], j))))
    return mean([lse([products[i, m] for _, m in chosen.values()]) - products[i, j] for i, j in chosen.values() for _ in range(s.anchors.count(i))])


def multi_similarity(s, alpha=2, beta=50, base=.5):
    return mean([np.log(1 + sum(np.exp(-alpha * (s.cos[i, j] - base)) for j in s.pos[i])) / alpha +
                 np.log(1 + sum(np.exp(beta * (s.cos[i, k] - base)) for k in s.neg[i])) / beta for i in s.anchors])


def circle(s, m=.4, gamma=80):
    pos = [lse([-gamma * max(0, 1 + m - s.held[i, j]) * (s.cos[i, j] - 1 + m) for j in s.pos[i]]) for i in range(len(s.z))]
    neg = [lse([gamma * max(0, s.held[i, k] + m) * (s.cos[i, k] - m) for k in s.neg[i]]) for i in range(len(s.z))]
    return mean([np.logaddexp(0, pos[i] + neg[i]) for i in s.with_positives() if s.neg[i]])


def lifted(s):
    def negatives_of(j):
        return [k for k in range(len(s.z)) for _ in range(s.neg[k].count(j))]
    return mean([max(0, lse([1 - s.d[i, k] for k in s.neg[i]] + [1 - s.d[k, j] for k in negatives_of(j)]) + s.d[i, j]) ** 2 / 2 for i, j in s.pairs()])


def fast_ap(s, bins=10):
    found = []
    for i in s.with_positives():
        ap, pos, all = 0., 0., 0.
        for b in range(bins + 1):
            here, there = (sum(max(0, 1 - abs(s.d[i, j] ** 2 - 4 * b / bins) * bins / 4) for j in js) for js in (s.pos[i], s.neg[i]))
            pos, all = pos + here, all + here + there
            ap += here * pos / all if all else 0.
        found.append(1 - ap / len(s.pos[i]))
    return mean(found)


def smooth_ap(s, t=.01, own=False):
    def above(c, k):
        return 1 / (1 + np.exp(np.clip(-(c[k] - c[0]) / t, -700, 700)))
    found = []
    for i in s.with_positives():
        row = [*s.cos[i], 1.]                                            # the last is the anchor itself
        mine = s.pos[i] + [len(row) - 1] * own
        ratios = []
        for n, j in enumerate(mine):
            pos = 1 + sum(above([row[j], row[k]], 1) for m, k in enumerate(mine) if m != n)
            ratios.append(pos / (pos + sum(above([row[j], row[k]], 1) for k in s.neg[i])))
        found.append(1 - mean(ratios))
    return mean(found)


def cross_entropy(s, logits):
    return mean([lse(logits[i]) - logits[i][s.label[i]] for i in s.anchors])


def softmax(scale, target):
    def loss(s, weights):
        cos = unit(s.z) @ unit(weights).T
        return cross_entropy(s, [[scale * (target(x) if c == s.label[i] else x) for c, x in enumerate(row)] for i, row in enumerate(cos)])
    return loss


def wider(x, m=np.radians(28.6)):
    theta = np.arccos(x)
    return np.cos(theta + m) if theta <= np.pi - m else x - m * np.sin(m)


def centres(weights):
    return np.array([unit(each) for each in weights])


def sub_center(s, weights):
    cos = np.einsum("bd,ckd->bck", unit(s.z), centres(weights)).max(-1)
    return cross_entropy(s, [[64 * (wider(x) if c == s.label[i] else x) for c, x in enumerate(row)] for i, row in enumerate(cos)])


def soft_triple(s, weights, plus=.2):
    u, z = centres(weights), unit(s.z)
    C, K, _ = u.shape
    logits = np.zeros((len(z), C))
    for i, c in np.ndindex(len(z), C):
        x = [z[i] @ u[c, k] for k in range(K)]
        p = np.exp(np.array(x) / .1)
        logits[i, c] = 20 * (sum(p / p.sum() * x) - .01 * (c == s.label[i]))
    return cross_entropy(s, logits) + plus / (C * K * (K - 1)) * sum(np.sqrt(2 - 2 * u[c, k] @ u[c, m]) for c in range(C) for k in range(K) for m in range(k))


def proxy_anchor(s, weights, a=32, m=.1):
    cos = unit(s.z) @ unit(weights).T
    here = {s.label[i] for i in s.anchors}
    pull = [np.log(1 + sum(np.exp(-a * (cos[i, c] - m)) for i in s.anchors if s.label[i] == c)) for c in here]
    return mean(pull) + mean([np.log(1 + sum(np.exp(a * (cos[i, c] + m)) for i in s.anchors if s.label[i] != c)) for c in range(len(weights))])


def cookbook_contrastive(s):
    def d(i, j):
        return np.sqrt(sum((s.z[i] - s.others[j]) ** 2))
    return sum(d(i, j) for i, j in s.pairs()) + sum(max(0, 3 - d(i, k)) ** 2 for i, k in s.against())


def cookbook_nca(s):
    def near(i, j):
        return np.exp(-sum((s.z[i] - s.others[j]) ** 2))
    below = sum(near(k, m) for k in s.anchors for m in range(len(s.others)) if s.kind[m] >= 0)
    return -sum(near(i, j) for i, j in s.pairs()) / max(below, 1e-300)


def cookbook_tuplet(s):
    return sum(lse([s.z[i] @ s.others[m] for _, m in s.pairs()]) - s.z[i] @ s.others[j] for i, j in s.pairs()) + .1 * sum(sum(s.z[i] ** 2) for i in s.anchors)
