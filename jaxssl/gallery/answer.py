"""The images most like a query: exact, by cosine in f32 over all rows, equal ones by their place; or by faiss's index, which may miss some, beyond a million."""
import json
from pathlib import Path

import numpy as np

from jaxssl.errors import UserError
from jaxssl.workdir import folder as folders

MANY = 1_000_000        # rows from which on an index that is not exact is worth its misses
_HELD = 2**24           # similarities held at a time
_PROBED = 16            # of its lists, faiss looks through one in so many


def exact(queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine f32 [N, k] in falling order, and place int64 [N, k], of the k most similar of normalised `rows` [n, D] to normalised `queries` [N, D]; k ≤ n."""
    step = max(1, _HELD // len(rows))
    found = [_best(queries[at:at + step] @ rows.T, k) for at in range(0, len(queries), step)]
    return np.concatenate([values for values, _ in found]), np.concatenate([places for _, places in found])


def _best(similarity, k):
    least = np.partition(similarity, -k, axis=1)[:, -k]
    values, places = np.empty((len(similarity), k), np.float32), np.empty((len(similarity), k), np.int64)
    for row, (own, limit) in enumerate(zip(similarity, least)):
        near = np.flatnonzero(own >= limit)             # all that are as good as the last, so that equal ones go by their place
        near = near[np.argsort(-own[near], kind="stable")[:k]]
        values[row], places[row] = own[near], near
    return values, places


def approximate(queries: np.ndarray, rows: np.ndarray, k: int, folder: Path, version: str) -> tuple[np.ndarray, np.ndarray]:
    """The same by faiss's inverted lists, built once for these rows (`version`) and kept in `folder`. Raises: UserError without faiss, or for rows that need none of it."""
    if len(rows) < MANY:
        raise UserError(f"--approximate may miss images, and {len(rows):,} are searched exactly in a moment; leave it out below {MANY:,}")
    try:
        import faiss
    except ImportError:
        raise UserError("--approximate needs faiss, which is not installed; pip install faiss-cpu, or leave it out") from None
    file, note = folder / "faiss.index", folder / "faiss.json"
    if (folders.readable(note) or {}).get("version") == version and file.is_file():
        index = faiss.read_index(str(file))
    else:
        lists = int(4 * len(rows)**.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
        index.train(np.ascontiguousarray(rows[::max(1, len(rows) // (64 * lists))]))
        for at in range(0, len(rows), 2**16):
            index.add(np.ascontiguousarray(rows[at:at + 2**16]))
        note.unlink(missing_ok=True)
        faiss.write_index(index, str(file))
        folders.write(note, json.dumps({"version": version}))
    index.nprobe = max(1, index.nlist // _PROBED)
    return index.search(np.ascontiguousarray(queries), k)
