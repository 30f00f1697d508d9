"""What embeddings look like without labels: the decay of their spectrum, the rank of what augmentation leaves alone, alignment and uniformity.

RankMe stands in `rank`. Every function takes embeddings f32 or f64, works in f64, and raises ValueError for anything that is not finite.
"""
import numpy as np

_FLOOR = 1e-12      # of the largest eigenvalue: below it lies rounding, not spectrum
_ROWS = 1000        # of a block of similarities


def singular_values(z: np.ndarray, *, centre: bool = False) -> np.ndarray:
    """Singular values of z [N, D], min(N, D) of them, falling; of z less its mean with `centre`. By the smaller Gram matrix: exact to 1e-8 of the largest."""
    z = _checked(z, 2)
    z = z - z.mean(axis=0) if centre else z
    gram = z.T @ z if z.shape[0] >= z.shape[1] else z @ z.T
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0))


def alpha_req(z: np.ndarray, *, first: int = 11, last: int = 500) -> float:
    """α-ReQ (arXiv 2202.05808): minus the slope of log eigenvalue against log rank, of the covariance of z [N, D].

    The fit is that of Stringer et al. (Nature 2019), which the paper takes over: least squares over the ranks `first` to `last`, each
    weighted by 1 / rank. A spectrum with fewer than 2 · first eigenvalues above rounding is fitted from rank 1. Infinite with fewer than three, which show
    no decay: the variance ends at once, in collapse.
    """
    eigenvalues = singular_values(z, centre=True) ** 2
    eigenvalues = eigenvalues[eigenvalues > _FLOOR * eigenvalues[0]][:last]
    if len(eigenvalues) < 3:
        return np.inf
    rank = np.arange(1, len(eigenvalues) + 1)[first - 1 if len(eigenvalues) >= 2 * first else 0:]
    x, y, weight = np.log(rank), np.log(eigenvalues[rank - 1]), 1 / rank
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    return float(-np.sum(weight * x * y) / np.sum(weight * x * x))


def lidar(views: np.ndarray, *, delta: float = 1e-4, epsilon: float = 1e-7) -> float:
    """LiDAR (arXiv 2312.04000): the smooth rank of linear discriminant analysis whose classes are images and whose samples are their views.

    views [n, q, D]: q >= 2 augmented views of n images, the paper has n = 1000, q = 50. Σ_b is the covariance of the n means of views, Σ_w the mean
    covariance of views about them, plus delta on its diagonal; exp(-sum p log p) of p = λ / |λ|_1 + epsilon, λ the eigenvalues of
    Σ_w^-1/2 Σ_b Σ_w^-1/2. In [1, min(n - 1, D)] up to epsilon.
    """
    from scipy.linalg import eigh
    views = _checked(views, 3)
    if len(views) < 2 or views.shape[1] < 2:
        raise ValueError(f"LiDAR needs at least two views of at least two images, got {views.shape}")
    means = views.mean(axis=1)                                              # [n, D]
    inside = (views - means[:, None]).reshape(-1, views.shape[-1])          # [n·q, D]
    between = (means - means.mean(axis=0)).T @ (means - means.mean(axis=0)) / len(means)
    within = inside.T @ inside / len(inside) + delta * np.eye(views.shape[-1])
    eigenvalues = np.maximum(eigh(between, within, eigvals_only=True), 0)
    if not eigenvalues.any():
        return 0.0
    p = eigenvalues / eigenvalues.sum() + epsilon
    return float(np.exp(-np.sum(p * np.log(p))))


def alignment(views: np.ndarray) -> float:
    """Mean |f(x) - f(x')|² over all pairs of views of an image, normalised (Wang and Isola, arXiv 2005.10242, α = 2). views [n, q, D], q >= 2.

    0 when views of an image coincide, 2 when they are unrelated. Over pairs: the mean of 2 - 2 cos, from |sum of views|².
    """
    views = _unit(_checked(views, 3))
    q = views.shape[1]
    if q < 2:
        raise ValueError(f"alignment needs at least two views of an image, got {views.shape}")
    cosine = (np.sum(views.sum(axis=1) ** 2, axis=-1) - q) / (q * (q - 1))  # [n], mean over pairs
    return float(np.mean(2 - 2 * cosine))


def uniformity(z: np.ndarray, *, t: float = 2.0) -> float:
    """log of the mean of exp(-t |f(x) - f(y)|²) over pairs of different images, normalised (arXiv 2005.10242). z [N, D], N >= 2.

    0 when all coincide; about -2 t (1 - 1/D) when spread evenly over a sphere of many dimensions; -4 t is out of reach.
    """
    z = _unit(_checked(z, 2))
    n, total = len(z), 0.0
    if n < 2:
        raise ValueError("uniformity needs at least two images")
    for at in range(0, n, _ROWS):
        close = np.exp(2 * t * (z[at:at + _ROWS] @ z[at:].T - 1))           # [rows, n - at]: the rest follows by symmetry
        rows = len(close)
        total += close[:, rows:].sum() + np.triu(close[:, :rows], 1).sum()
    return float(np.log(2 * total / (n * (n - 1))))


def stable_rank(z: np.ndarray) -> float:
    """Sum of squared singular values over the largest squared, of z [N, D]; in [1, min(N, D)], 0 when z is zero."""
    sigma = singular_values(z)
    return float(np.sum(sigma ** 2) / sigma[0] ** 2) if sigma[0] > 0 else 0.0


def mean_cosine(z: np.ndarray) -> float:
    """Mean cosine between different images, z [N, D], N >= 2; about 0 when spread, 1 when collapsed."""
    z = _unit(_checked(z, 2))
    if len(z) < 2:
        raise ValueError("the mean cosine needs at least two images")
    return float((np.sum(z.sum(axis=0) ** 2) - np.sum(z * z)) / (len(z) * (len(z) - 1)))


def dimensions(z: np.ndarray, share: float = .9) -> int:
    """How many principal directions of z [N, D] hold `share` of its variance; 0 when it has none."""
    variance = singular_values(z, centre=True) ** 2
    return int(np.searchsorted(np.cumsum(variance), share * variance.sum()) + 1) if variance[0] > 0 else 0


def reading(name: str, value: float, bound: int) -> str:
    """One sentence that says how to read a measure; bound is min(N, D)."""
    return {
        "rankme": f"about {value:.0f} of {bound} directions are used evenly; higher goes with better transfer of the same method, collapse is near 1",
        "alphareq": f"eigenvalues fall like rank^-{value:.2f}; near 1 goes with good transfer, well above is dimensional collapse, below is noise in every direction",
        "lidar": f"images differ from their own augmentations about evenly in {value:.0f} of {bound} directions; higher goes with better transfer of the same method and "
                 "augmentation, but noise is even too: read it beside kNN",
        "alignment": f"squared distance {value:.2f} between two views of an image on the unit sphere; 0 is full invariance, 2 is none; low counts only "
                     "beside good uniformity",
        "uniformity": f"{value:.2f} on a scale from 0 (all images in one point) to about -4 (spread over the sphere); lower is better at equal alignment",
        "stable rank": f"total energy is {value:.1f} times that of the strongest direction, of {bound} at most; near 1 one direction, often the mean, outweighs the rest",
        "mean cosine": f"two images have cosine {value:.2f} on average; near 0 is spread, near 1 is a collapse or a large common mean",
        "dimensions": f"{value:.0f} of {bound} principal directions hold 90 % of the variance",
    }[name]


def _checked(z, rank):
    z = np.asarray(z, np.float64)
    if z.ndim != rank or not z.size or not np.isfinite(z).all():
        raise ValueError(f"finite embeddings {'[N, D]' if rank == 2 else '[n, q, D]'} are needed, got shape {z.shape}")
    return z


def _unit(z):
    return z / np.maximum(np.linalg.norm(z, axis=-1, keepdims=True), 1e-12)
