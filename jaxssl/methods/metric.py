"""Metric learning: images of a class near one another, by any loss of `jaxssl.losses.metric`, with a miner, a memory, a linear head and still batch norms where they are asked for.

What the loss reads, its margins and temperatures, are keys of the method too, by the names and with the defaults that its function has, and so is what the miner reads.
A loss with weights of classes learns them under `classes/`: `optim.rules=(("^classes/", dict(adam=1e-2)),)` gives them an Adam of their own at that rate, `rate=` a multiple of the
run's. Memory: what was said of earlier images stands beside the batch as candidates, without gradient (XBM, Wang et al. 2020, arXiv 1912.06798), under ids, so that an image is
never a pair with itself. Differs: the paper adds the loss against the memory to that in the batch, pytorch-metric-learning has the memory alone; here one loss sees both.

Expected: by loss and data, see "A metric learning reality check" (arXiv 2003.08505): tuned alike, most losses of ten years reach the same. `jaxssl.losses.metric` has the
formulas, and where they differ from pytorch-metric-learning.
"""
import inspect

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxssl.errors import UserError
from jaxssl.losses import metric, miners, unified
from jaxssl.losses.dictionary import enqueue
from jaxssl.methods.base import Method, Needs, check_range, embedding, nets, rows_at_once, unchanged
from jaxssl.models.heads import TORCH, Projector

LARGE = 256
NORMS = ("learned", "statistics", "all")
WEIGHED = {"arcface": 1, "cosface": 1, "normalized_softmax": 1, "proxy_anchor": 1, "proxy_nca": 1, "soft_triple": 10, "sub_center_arcface": 3}    # loss -> usual centres of a class
BETAS = ("given", "one", "class")


def phi_psi(z, label, *, id=None, reference=None, weight=None, metrics=False, pair="infonce", temperature=.1, margin=.2):
    """`metric.phi_psi` of a pair by its name."""
    check_range(pair=(pair, f"one of {', '.join(unified.FAMILY)}", pair in unified.FAMILY))
    return metric.phi_psi(z, label, id=id, reference=reference, weight=weight, metrics=metrics, pair=unified.FAMILY[pair](temperature, margin))


def auto(*, id=None, reference=None, weight=None, metrics=False):
    """In place of a loss, which `decided` chooses."""


LOSSES = {"auto": auto, **{name: getattr(metric, name) for name in metric.__all__}, "phi_psi": phi_psi}
MINERS = {"": None, **{f.__name__: f for f in (miners.multi_similarity, miners.batch_hard, miners.batch_easy_hard, miners.semi_hard, miners.distance_weighted, miners.pair_margin,
                                               miners.angular)}}
CHOICES = {"loss": LOSSES, "miner": MINERS}         # keys of the config that select functions with further keys


def decided(config):
    """({path of the config: value}, why in a sentence) where method.loss is "auto", by the rule of "All you need to know about training image retrieval models": pairs, four
    images of a class and a miner for batches of 256 and more; for smaller ones weights of classes at a large rate of their own, and one image of a class."""
    if config.method.loss != "auto":
        return {}, ""
    size = config.batch_size
    if size >= LARGE:
        return {"data.sampler": "m_per_class", "data.per_class": 4, "method.loss": "multi_similarity", "method.miner": "multi_similarity"}, \
            f"a batch of {size} images, {LARGE} or more, is enough for pairs"
    rules = config.optim.rules if any(pattern == "^classes/" for pattern, _ in config.optim.rules) else (("^classes/", {"adam": 1.0}), *config.optim.rules)
    return ({"data.sampler": "m_per_class", "data.per_class": 1, "method.loss": "cosface", "method.miner": "", "optim.rules": rules},
            f"a batch of {size} images, fewer than {LARGE}, has too few pairs, and weights of classes learn from each image")


def make(*, encoder, net, mesh, batch_size, classes, loss="multi_similarity", miner="", dim=0, centers=0, beta_of="given", memory=0, memory_start=0, norms="learned",
         **own) -> Method:
    """Metric learning.

    Args:
      loss: a function of `jaxssl.losses.metric`, or "auto", chosen by the batch (`decided`). miner: one of `jaxssl.losses.miners`, which chooses the pairs that the
        loss sees; "" is none, all pairs.
      dim: width of a linear layer on the features, whose output the loss compares; 0 is none.
      centers: of each class, with sub_center_arcface (0: 3) and soft_triple (0: 10).
      beta_of: margin's beta is "given", or learned from there on: "one" for all, or one of each "class".
      memory: rows of earlier images that stand beside the batch, a multiple of it; 0 is none. memory_start: steps before they do, while the encoder still moves fast.
      norms: the encoder's batch norms are "learned"; or they norm by their running "statistics" and keep them; or "all" of them stands still, scale and bias too (they have no
        gradient; rules that decay them would move them).
      own: what loss and miner read. Of it block, anchors at a time, is chosen where it is 0: `anchors_at_once`.
    """
    weighed = loss in WEIGHED
    check_range(dim=(dim, "0 or more", dim >= 0), centers=(centers, "0 or more", centers >= 0), norms=(norms, f"one of {', '.join(NORMS)}", norms in NORMS),
                memory=(memory, f"0 or a multiple of the batch, {batch_size}", memory >= 0 and memory % batch_size == 0),
                memory_start=(memory_start, "0 or more", memory_start >= 0),
                beta_of=(beta_of, f"one of {', '.join(BETAS)}", beta_of in BETAS))
    if memory_start and not memory:
        raise UserError(f"method.memory_start is {memory_start}, but method.memory is 0; leave it out, or choose a memory")
    _check_read(loss, miner, memory, centers, beta_of)
    _check_norms(norms, encoder.module)
    if classes == 1:
        raise UserError("the images are of one class, so that nothing tells them apart; give images of two classes or more")
    kept, mined = ({key: own[key] for key in own if key in _keys(f)} for f in (LOSSES[loss], MINERS[miner]))
    if "block" in kept:
        kept["block"] = kept["block"] or anchors_at_once(mesh, batch_size + memory)
    head = Projector((dim,), last_norm=False, last_bias=True, kernel_init=TORCH)
    projector, width = net(head), dim or encoder.features
    trained = encoder._replace(still=norms != "learned")

    def init(key, batch):
        wanted = {"encoder": (encoder, batch["views"][:, 0]), **({"projector": (projector, jnp.zeros((len(batch["views"]), encoder.features)))} if dim else {})}
        params, stats = nets(key, **wanted)
        aux = {"batch_stats": stats}
        if weighed:
            shape = (classes, centers or WEIGHED[loss], width) if WEIGHED[loss] > 1 else (classes, width)
            params["classes"] = {"weights": jax.random.normal(jax.random.fold_in(key, 3), shape)}
        if beta_of != "given":
            params["classes"] = {"beta": jnp.full((classes,) if beta_of == "class" else (), kept["beta"])}
        if memory:
            shape = batch_size, memory // batch_size             # place in the batch × age, so that each device keeps what it said
            aux["memory"] = {"z": jnp.zeros((*shape, width)), "label": jnp.full(shape, -1, jnp.int32), "id": jnp.full(shape, -1, jnp.int32)}
        return params, aux

    def loss_(params, aux, batch, key, step):
        label, id, stats = batch["label"], batch["id"], dict(aux["batch_stats"])
        weights = _held(params["encoder"], stats["encoder"]) if norms == "all" else params["encoder"]
        h, stats["encoder"] = trained.pooled.per_view(weights, stats["encoder"], batch["views"][:, :1], key=key)                     # [B, 1, D]
        z = h
        if dim:
            z, stats["projector"] = projector.per_view(params["projector"], stats["projector"], h)
        rows, reference, kind, aux = z[:, 0], None, {}, {**aux, "batch_stats": stats}
        if memory:
            earlier = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), aux["memory"])                                             # [B, S, …] -> [B · S, …]
            seen = jnp.where(step >= memory_start, earlier["label"], -1)
            reference = tuple(jnp.concatenate(each) for each in ((rows, stop_gradient(earlier["z"])), (label, seen), (id, earlier["id"])))
            new = {"z": rows, "label": label, "id": id}
            aux["memory"] = jax.tree.map(lambda kept, x: jnp.swapaxes(enqueue(jnp.swapaxes(kept, 0, 1), x[None], step), 0, 1), aux["memory"], new)
        if miner and loss == "triplet" and miner in miners.TRIPLETS:
            kind["only"] = miners.TRIPLETS[miner](**mined)
        elif miner:
            kind["weight"] = MINERS[miner](rows, label, id=id, reference=reference, **mined)
        if beta_of != "given":
            kind["beta"] = params["classes"]["beta"]
        learned = ()
        if weighed:
            learned, kind["mesh"] = (params["classes"]["weights"],), mesh
        value, metrics = LOSSES[loss](rows, label, *learned, id=id, reference=reference, metrics=True, **{**kept, **kind})
        if miner and "weight" in kind:
            metrics["mined_share"] = jnp.mean(kind["weight"] > 0)
        return value, (aux, metrics, {"features": h, "embeddings": z})

    return Method(init, loss_, unchanged, embedding(encoder), heads={"projector": (head, "encoder")} if dim else {}, places=((r"^memory/", "rows"),),
                  needs=Needs(views=1, most=1, labels=True, pairs=not weighed))


def anchors_at_once(mesh, candidates):
    """Anchors that are compared with so many candidates at a time, where a loss holds some six arrays of all pairs: 16 MB each on one device; 0, all, on several. Smaller blocks
    are slower: at 1,024 × 1,024 half as fast."""
    return 4 * rows_at_once(mesh, candidates)


def _check_read(loss, miner, memory, centers, beta_of):
    """Raises: UserError for a key that the loss does not read."""
    of_pairs, weighed = "losses of pairs", loss in WEIGHED
    for key, value, used, good, readers in (("miner", miner, miner, not weighed, of_pairs), ("memory", memory, memory, not weighed, of_pairs),
                                            ("centers", centers, centers, WEIGHED.get(loss, 0) > 1, "soft_triple and sub_center_arcface"),
                                            ("beta_of", beta_of, beta_of != "given", loss == "margin", "margin")):
        if used and not good:
            raise UserError(f"method.{key} is {value}, which is read with {readers} and not with {loss}; leave it out")


def _check_norms(norms, module):
    if norms != "learned" and not hasattr(module, "bn_groups"):
        raise UserError(f"method.norms is {norms}, but the encoder has no batch norm; leave it out")
    if norms != "learned" and getattr(module, "drop_path", 0):
        raise UserError(f"method.norms is {norms} and model.drop_path {module.drop_path}: with still norms no branch is left out; set model.drop_path=0")


def _keys(function):
    """Names of a function's keywords with a default; none of no function."""
    return {p.name for p in inspect.signature(function).parameters.values() if p.default is not p.empty} if function else set()


def _held(params, stats):
    """The parameters of an encoder, those of its batch norms (which are where the statistics are) without gradient."""
    if "mean" in stats:
        return stop_gradient(params)
    return {name: _held(each, stats[name]) if name in stats else each for name, each in params.items()}
