"""Features over eight devices: every image once, in order, padding left out, one compile."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.parallel import mesh as sharding
from jaxssl.evaluation.features import extract as features


def rows(n, size, seed=0):
    """(images, labels, batches of `size` rows padded with masked copies), as data.eval_batches gives them."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (n, 4, 4, 3), np.uint8), rng.integers(0, 5, n, np.int32)

    def batches():
        for start in range(0, n, size):
            take = np.arange(start, start + size)
            yield {"image": images[take % n], "size": np.full((size, 2), 4, np.int32), "label": labels[take % n], "id": (take % n).astype(np.int32),
                   "mask": take < n}
    return images, labels, batches()


@pytest.mark.parametrize("fsdp", [1, 2])
@pytest.mark.parametrize("n", [5, 32, 50])
def test_every_image_once_in_order(n, fsdp):
    images, labels, batches = rows(n, 16)
    mesh = sharding.make_mesh(devices=jax.devices(), fsdp=fsdp)
    traced = []

    @jax.jit
    def embed(batch):
        traced.append(batch["image"].shape)
        return (batch["image"].reshape(len(batch["image"]), -1) / 255).astype(jnp.bfloat16)[:, :7]
    got, found = features.extract(embed, batches, mesh)
    expected = np.asarray(jnp.asarray(images.reshape(n, -1)[:, :7] / np.float32(255)).astype(jnp.bfloat16), np.float32)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(found, labels)
    assert got.dtype == np.float32 and traced == [(16, 4, 4, 3)]


def test_embed_is_given_arrays_split_over_all_devices():
    _, _, batches = rows(16, 16)
    seen = []

    def embed(batch):
        seen.append(len(batch["image"].sharding.device_set))
        assert set(batch) == {"image", "size"}  # never a label
        return batch["size"].astype(jnp.float32)
    features.extract(embed, batches, sharding.make_mesh(devices=jax.devices()))
    assert seen == [8]
