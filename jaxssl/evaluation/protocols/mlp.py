"""A multi-layer perceptron of two or three layers on cached features: what the encoder holds that is not linearly there.

Such probes overfit (best epoch ≠ last), so each epoch is judged on a tenth of the training images and the test images see the best one's weights.
"""
import time

from jaxssl.evaluation.measures import mlp
from jaxssl.evaluation.protocols import Context, Row

EPOCHS = {"short": 15, "published": 100}    # of no paper: protocols differ, and the curve shows where the best epoch lies


def run(context: Context, *, layer: str = "backbone", layers: int = 2, hidden: int = 512, epochs: int = 0, batch_size: int = 256, lr: float = 1e-3, weight_decay: float = 1e-2,
        dropout: float = 0.) -> list[Row]:
    """One row, with the curve (training loss and accuracy of every epoch) in its setting. epochs: 0 = of the budget."""
    start = time.monotonic()
    train, test = context.labelled("train", layer), context.labelled("test", layer)
    epochs = epochs or EPOCHS[context.budget]
    result = mlp.evaluate(train.x, train.labels, test.x, test.labels, layers=layers, hidden=hidden, epochs=epochs, batch_size=batch_size, lr=lr, weight_decay=weight_decay,
                          dropout=dropout, seed=context.seed, select=context.select, mesh=context.mesh)
    setting = {"layers": layers, "hidden": hidden, "epochs": epochs, "batch_size": result.batch_size, "optimizer": "adamw", "lr": lr, "weight_decay": weight_decay,
               "dropout": dropout,
               "best_epoch": result.best, "last_epoch": result.last, "curve": [point._asdict() for point in result.curve]}
    note = f"epoch {result.best} of {epochs} is the best; the last gives {100 * result.last:.1f} %"
    return [Row("mlp", f"{layers} layers of {hidden}", layer, "accuracy", result.accuracy, len(test.labels),
                context.interval(result.predictions == test.labels, test.labels, test.ids), setting, note, time.monotonic() - start, context.select, "share")]
