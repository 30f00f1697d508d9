"""Where norms see parts of a batch, a teacher's parts hold other images than its student's: an image and its key share no statistics by which they could be told."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxssl.methods.base import asked_and_told, nets
from jaxssl.models import Net
from jaxssl.models.features import Features
from jaxssl.models.heads import Projector
from jaxssl.models.norm import BatchNorm

B = 16


class Normed(nn.Module):
    """The smallest encoder with batch norm: of the mean colour."""
    bn_groups: int = 1
    features: int = 3

    @nn.compact
    def __call__(self, x, train, rows=None):
        return Features(BatchNorm(groups=self.bn_groups)(x.mean((1, 2)), train), x.reshape(len(x), -1, 3))


def say(groups, parts):
    """images [B, 2, 4, 4, 3] -> what a student and its teacher, of equal weights, say of them, [B, K] each; jitted."""
    encoder, projector = Net(Normed(groups), parts), Net(Projector((8, 4), last_norm=False, bn_groups=groups, kernel_init=nn.initializers.lecun_normal()), parts)
    params, stats = nets(jax.random.key(0), encoder=(encoder, jnp.zeros((B, 4, 4, 3))), projector=(projector, jnp.zeros((B, 3))))
    aux = {"batch_stats": stats, "teacher": {"params": params, "batch_stats": stats}}

    def said(views):
        _, q, k, _ = asked_and_told(encoder, projector, None, params, aux, {"views": views}, None)
        return q[:, 0], k[:, 0]
    return jax.jit(said)


@pytest.mark.parametrize("groups, parts", [(4, 1), (2, 2)])
def test_a_teacher_norms_its_key_with_other_images(groups, parts):
    views, said = np.random.default_rng(0).normal(size=(B, 2, 4, 4, 3)).astype(np.float32), say(groups, parts)
    before = said(views)
    # Which images have a part in what is said of each: [B, B] of the student, of the teacher.
    met = np.stack([[np.abs(a - b).max(1) > 1e-6 for a, b in zip(said(views + np.eye(B, dtype=np.float32)[i, :, None, None, None, None]), before)] for i in range(B)], 1)
    for of, member in zip(("student", "teacher"), met):
        assert (member.sum(0) == B // (parts * groups)).all() and member.diagonal().all(), of
    np.testing.assert_array_equal(met[0] & met[1], np.eye(B, dtype=bool))            # none but the image itself


def test_what_is_dealt_comes_back_in_its_order():
    view = np.random.default_rng(0).normal(size=(B, 1, 4, 4, 3)).astype(np.float32)
    alike = np.concatenate([view, view], 1)
    np.testing.assert_allclose(*say(1, 1)(alike), rtol=1e-5, atol=1e-6)
    for image in (0, 5, 11):                                                         # with groups, one that is far from all others is so at its own place
        far = alike + 100 * np.eye(B, dtype=np.float32)[image, :, None, None, None, None]
        assert [int(np.square(x - x.mean(0)).sum(1).argmax()) for x in map(np.asarray, say(4, 1)(far))] == [image] * 2
