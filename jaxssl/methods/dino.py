"""DINO (arXiv 2104.14294): from any crop of an image say which prototypes a slow copy of the network sees in its large crops.

What keeps it from collapse: the copy's logits are centred, so that no prototype wins always, and sharpened, so that not all win equally (section 5.3).
Differs from the official code (facebookresearch/dino, main_dino.py): the teacher's temperature rises every step, not every epoch; of networks with batch norm
the teacher's running statistics are averaged with its weights, where theirs come from its own passes.

Expected: ViT-S/16, ImageNet, batch 512, 100 epochs of 2 + 8 crops: 69.3 % kNN, 73.8 % linear (official README); 800 epochs: 74.5 % and 77.0 % (paper, table 2).
"""
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxssl import schedules
from jaxssl.losses.distillation import centered, cross_entropy, distillation_metrics, update_center
from jaxssl.methods.base import Method, Needs, all_crops, begin, check_range, embedding, encoded, unchanged, with_teacher
from jaxssl.models.prototypes import PrototypeHead


def make(*, encoder, net, total, duration, student_temp=0.1, teacher_temp=0.07, teacher_temp_start=0.04, teacher_temp_warmup="30_epochs", tau=0.996,
         center_momentum=0.9, prototypes=65536, hidden=2048, bottleneck=256, layers=3, norm=False, norm_last_layer=True) -> Method:
    """DINO.

    Args:
      student_temp: of the student's softmax. teacher_temp: of the teacher's, reached from teacher_temp_start in a straight line over teacher_temp_warmup.
      tau: decay of the average at the start; it grows to 1 along half a cosine. Batches of 256 want .9995 (official code).
      center_momentum: decay of the center, the average of the teacher's logits.
      prototypes, hidden, bottleneck, layers: of the head (`PrototypeHead`); layers of its perceptron, the bottleneck's included.
      norm: batch norm in the head. norm_last_layer: logits are cosines; without it each has a learned factor, better for ViT-S and less stable.
    """
    positive = dict(student_temp=student_temp, teacher_temp=teacher_temp, teacher_temp_start=teacher_temp_start)
    check_range(**{name: (value, "above 0", value > 0) for name, value in positive.items()}, tau=(tau, "in [0, 1]", 0 <= tau <= 1),
                center_momentum=(center_momentum, "in [0, 1)", 0 <= center_momentum < 1), prototypes=(prototypes, "at least 2", prototypes >= 2),
                hidden=(hidden, "at least 1", hidden >= 1), bottleneck=(bottleneck, "at least 1", bottleneck >= 1), layers=(layers, "at least 1", layers >= 1))
    module = PrototypeHead((hidden,) * (layers - 1) + (bottleneck, prototypes), norm=norm, gain=not norm_last_layer)
    head = net(module)
    decay = schedules.tau(tau, total)
    temperature = schedules.linear(teacher_temp_start, teacher_temp, duration(teacher_temp_warmup, "method.teacher_temp_warmup"))

    def init(key, batch):
        params, aux = begin(key, batch, encoder, head=head)
        return params, {**aux, "center": jnp.zeros((prototypes,))}

    def seen_by(params, stats, crops, key=None):
        """Crops of several sizes, [B, V, …] each -> features [B, V, D] of all, logits [B, V, K], new statistics; the head norms all sizes together."""
        h, stats = encoded(encoder, params, stats, crops, key)                                      # [B, V, D]
        logits, stats["head"] = head.per_view(params["head"], stats["head"], h)                     # [B, V, K]
        return h, logits, stats

    def loss(params, aux, batch, key, step):
        whole = batch["views"]
        h, student, stats = seen_by(params, aux["batch_stats"], all_crops(batch), key)
        _, teacher, _ = seen_by(aux["teacher"]["params"], aux["teacher"]["batch_stats"], [whole])  # no key: the teacher leaves no block out
        teacher = stop_gradient(teacher)
        target = centered(teacher, aux["center"], temperature(step))                                # [B, T, K]
        value = cross_entropy(student, target, student_temp=student_temp)
        said = distillation_metrics(student, target, student_temp=student_temp)
        center = update_center(aux["center"], teacher, center_momentum)
        share = jnp.square(center).sum() / jnp.square(teacher).sum(-1).mean()                       # 1: all images have the center's logits
        metrics = {**said, "divergence": value - said["teacher_entropy"], "center_norm": jnp.linalg.norm(center), "center_share": share,
                   "teacher_temp": temperature(step), "tau": decay(step)}
        return value, ({**aux, "batch_stats": stats, "center": center}, metrics, {"features": h[:, :whole.shape[1]]})

    student = Method(init, loss, unchanged, embedding(encoder), heads={"head": (module, "encoder")}, needs=Needs(views=2, local=0))
    return with_teacher(student, ("encoder", "head"), decay)
