"""RankMe and effective rank: how many dimensions the embeddings use, without labels."""
import numpy as np

_EPS = 1e-7


def _spectrum(z: np.ndarray) -> np.ndarray:
    """Singular values of z [N, D], min(N, D) of them, over their sum. By the smaller Gram matrix in f64: exact to 1e-8 of the largest."""
    z = np.asarray(z, dtype=np.float64)
    if z.ndim != 2 or not z.size or not np.isfinite(z).all():
        raise ValueError(f"rank needs finite embeddings [N, D], got shape {z.shape}")
    scale = np.abs(z).max()
    if scale == 0:
        return np.zeros(min(z.shape))
    z = z / scale
    gram = z.T @ z if z.shape[0] >= z.shape[1] else z @ z.T
    sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    return sigma / sigma.sum()


def rankme(z: np.ndarray) -> float:
    """exp(-sum p log p), p = sigma / |sigma|_1 + 1e-7, sigma the singular values of z [N, D] (arXiv 2210.02885, equation 1).

    In [1, min(N, D)] up to the 1e-7; the paper takes N = 25,600. Embeddings as they are, neither centred nor normalised.
    ValueError for anything but finite [N, D].
    """
    p = _spectrum(z) + _EPS
    return float(np.exp(-np.sum(p * np.log(p))))


def effective_rank(z: np.ndarray) -> float:
    """RankMe without the 1e-7 (Roy and Vetterli 2007): k for k equal singular values; 0 when z is zero."""
    p = _spectrum(z)
    p = p[p > 0]
    return float(np.exp(-np.sum(p * np.log(p)))) if p.size else 0.0


def reading(z: np.ndarray) -> str:
    """The effective rank in words: `effective rank 87.1 of 512 (17 %)`; the bound is min(N, D)."""
    rank, bound = effective_rank(z), min(np.shape(z))
    return f"effective rank {rank:.1f} of {bound} ({100 * rank / bound:.0f} %)"
