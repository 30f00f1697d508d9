"""Makes contrastive.npz: the arrays of `inputs`, and what other implementations make of them in float64 (lightly 1.6.0 over torch 2.13.0 when last run).

    python tests/goldens/make_contrastive.py          # with torch, torchvision and lightly installed

DCL, DCLW and DirectCLR are lightly's losses. NNCLR's neighbours come from lightly's memory bank, DenseCL's from its search;
MoCo's and DenseCL's losses are its NT-Xent with a bank. What no installed library has is torch's own cross entropy or
divergence of logits written down here: SupCon, MoCo v3, mean shift, ISD, ReSSL, the memory bank's softmax, and SSCD, row by row.
"""
from pathlib import Path

import numpy as np
from make_losses import lightly

T, SIGMA = .2, .5


def inputs():
    """name -> array: B = 8 images of two views, K = 6; a queue of 12 rows, two of images of the batch; a bank of 10; labels, of which two are missing;
    maps of 4 and 5 places, their embeddings; and which images each view shows, some of them two."""
    rng, other = (np.random.Generator(np.random.PCG64(seed)) for seed in (12, 13))
    maps = {"map": other.normal(size=(8, 4, 5)), "other_map": other.normal(size=(8, 4, 5)), "places": other.normal(size=(8, 4, 6)), "other_places": other.normal(size=(8, 4, 6))}
    shows = np.stack([np.broadcast_to(np.arange(8)[:, None], (8, 2)), np.where(other.random((8, 2)) < .3, 7 - np.arange(8)[:, None], np.arange(8)[:, None])], -1)
    return {**maps, "shows": shows, "z": rng.normal(size=(8, 2, 6)), "p": rng.normal(size=(8, 2, 6)), "queue": rng.normal(size=(12, 6)),
            "queue_ids": np.array([0, 5, *range(20, 30)]), "bank": rng.normal(size=(10, 6)), "labels": np.array([0, 1, 0, 2, -1, 1, 0, -1])}


def reference():
    torch, loss, _, _ = lightly()
    from lightly.loss.dcl_loss import DCLLoss, DCLWLoss
    from lightly.loss.directclr_loss import DirectCLRLoss
    from lightly.loss import NTXentLoss
    from lightly.models.modules import NNMemoryBankModule
    from lightly.models.utils import select_most_similar
    F = torch.nn.functional
    x = {name: torch.from_numpy(array) for name, array in inputs().items()}
    queue, bank = F.normalize(x["queue"], dim=1), F.normalize(x["bank"], dim=1)
    own = torch.arange(8)[:, None] == x["queue_ids"]                                            # [B, M]
    out = {}

    def graded(name, function, array):
        leaf = array.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        out[name], out[f"grad_{name}"] = value.detach().reshape(()), leaf.grad

    graded("dcl", lambda z: DCLLoss(T)(z[:, 0], z[:, 1]), x["z"])
    graded("dclw", lambda z: DCLWLoss(T, sigma=SIGMA)(z[:, 0], z[:, 1]), x["z"])
    graded("directclr", lambda z: DirectCLRLoss(loss_dim=4, temperature=T)(z[:, 0], z[:, 1]), x["z"])

    def supcon(z):
        rows, image = F.normalize(z, dim=2).flatten(0, 1), torch.arange(16) // 2
        y = torch.where(x["labels"] < 0, 100 + torch.arange(8), x["labels"])[image]
        mask = (y[:, None] == y) & ~torch.eye(16, dtype=torch.bool)
        logp = (rows @ rows.T / T).masked_fill(torch.eye(16, dtype=torch.bool), -torch.inf).log_softmax(1)
        return -torch.stack([logp[i][mask[i]].mean() for i in range(16)]).mean()
    graded("supcon", supcon, x["z"])

    memory = NNMemoryBankModule(size=(10, 6))
    memory.bank, memory.bank_ptr = queue[2:], torch.zeros(1, dtype=torch.long)      # the rows of other images: lightly does not know whose they are
    near = torch.stack([memory(x["z"][:, v], update=False) for v in range(2)], 1)
    out["near"] = near
    target = torch.arange(8)
    graded("nnclr", lambda p: sum(F.cross_entropy(F.normalize(near[:, v], dim=1) @ F.normalize(p[:, 1 - v], dim=1).T / T, target) for v in range(2)) / 2, x["p"])

    t = F.normalize(x["z"], dim=2)
    found = torch.einsum("bvk,mk->bvm", t, queue).masked_fill(own[:, None], -9).topk(3, 2).indices
    graded("msf", lambda p: (2 - 2 * torch.einsum("bvk,bvnk->bvn", F.normalize(p, dim=2), torch.cat([t[:, :, None], queue[found]], 2))).mean(), x["p"])

    def relation(x, temp):
        return (torch.einsum("bvk,mk->bvm", F.normalize(x, dim=2), queue) / temp).masked_fill(own[:, None], -1e9).flatten(0, 1)
    graded("isd", lambda p: F.kl_div(relation(p, .1).log_softmax(1), relation(x["z"], .02).softmax(1), reduction="batchmean"), x["p"])
    graded("ressl", lambda p: F.cross_entropy(relation(p, .1), relation(x["z"], .04).softmax(1)), x["p"])
    graded("npid", lambda z: F.cross_entropy((F.normalize(z, dim=2) @ bank.T / T).flatten(0, 1), target.repeat_interleave(2)), x["z"])
    criterion = NTXentLoss(T, memory_bank_size=(10, 6))
    criterion.memory_bank.bank, criterion.memory_bank.bank_ptr = queue[2:].clone(), torch.zeros(1, dtype=torch.long)
    graded("moco", lambda q: criterion(q.flatten(0, 1), x["z"].flatten(0, 1)), x["p"])
    both = [(0, 1), (1, 0)]
    graded("moco_v3", lambda q: sum(F.cross_entropy(F.normalize(q[:, a], dim=1) @ F.normalize(x["z"][:, b], dim=1).T / T, target) * 2 * T for a, b in both), x["p"])
    criterion.memory_bank.bank, criterion.memory_bank.bank_ptr = queue[2:].clone(), torch.zeros(1, dtype=torch.long)        # it took these keys
    partners = select_most_similar(F.normalize(x["map"], dim=2), F.normalize(x["other_map"], dim=2), x["other_places"])
    graded("densecl", lambda q: criterion(q.flatten(0, 1), partners.flatten(0, 1)), x["places"])

    def sscd(z, shows):
        """The naive loop: InfoNCE over all views that share no image, and three times minus the mean log distance to the nearest of these."""
        rows, of, total = F.normalize(z, dim=2).flatten(0, 1), [set(s) for s in shows.reshape(-1, 2).tolist()], 0.
        for i in range(16):
            others = [k for k in range(16) if not of[k] & of[i]]
            matches = [j for j in range(16) if j != i and of[j] & of[i]]
            repelled = rows[others] @ rows[i] / T
            total = total + torch.stack([F.cross_entropy(torch.cat([(rows[i] @ rows[j] / T)[None], repelled])[None], torch.tensor([0])) for j in matches]).mean()
            total = total - 3 * torch.cdist(rows[i][None], rows[others]).min().log()
        return total / 16
    graded("sscd", lambda z: sscd(z, x["shows"]), x["z"])
    graded("sscd_alone", lambda z: NTXentLoss(T)(z[:, 0], z[:, 1]), x["z"])
    return {name: array.detach().numpy() for name, array in out.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).parent / "contrastive.npz", **inputs(), **reference())
