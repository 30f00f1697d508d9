"""One sentence for each chart: what it says of this run, with its figures."""
import numpy as np

from jaxssl.evaluation.measures import collapse, signs
from jaxssl.evaluation.tables.reading import SHARE, is_share, number
from jaxssl.report.markup import middle
from jaxssl.report.read import Run
from jaxssl.workdir import folder as folders


def percent(value: float, digits: int = 1) -> str:
    """`value` of 1 in percent; the space before the sign does not break."""
    return f"{100 * value:.{digits}f}\u00a0%".replace("-", "−")


def score(metric: str, value: float) -> str:
    """A score of a run's own as it is read: percent for what lies in [0, 1]."""
    return percent(value) if SHARE.search(metric) and 0 <= value <= 1 else number(value)


def value_of(row: dict, value: float) -> str:
    """A number on the scale of a row of an evaluation: percent for a share."""
    return percent(value) if is_share(row) and 0 <= value <= 1 else number(value)


def since(value: float, start: float | None) -> str:
    """How a share compares with that of the weights the run began with; empty without any."""
    if start is None:
        return ""
    return f"{'down' if value < start else 'up'} from the {percent(start)} it began with" if value != start else "as it began"


def of(metric: str, run: Run) -> str:
    """The sentence under the curve of `metric`; empty when there is nothing to say."""
    known = {"loss": _loss, "lr": _rate, "knn": _knn, "map_at_r": _retrieved, "probe_accuracy": _probe, "rankme": _rank, "collapse_std": _std, "collapse_cosine": _cosine,
             "images_per_second": _speed, "data_wait_share": _wait, "grad_norm": _grad, "mfu": _mfu}
    steps, values = run.curves.get(metric, (np.zeros(0), np.zeros(0)))
    good = np.isfinite(values)
    if metric not in known or not good.any() or run.last(metric) is None:
        return ""
    return known[metric](run, steps[good], values[good])


def _loss(run, steps, values):
    if len(values) < 5:
        return f"Loss went from {number(values[0])} to {number(values[-1])}."
    last = values[steps >= steps[0] + 0.9 * (steps[-1] - steps[0])]
    earlier = values[(steps >= steps[0] + 0.8 * (steps[-1] - steps[0])) & (steps < steps[0] + 0.9 * (steps[-1] - steps[0]))]
    change = (last.mean() - earlier.mean()) if len(earlier) else 0.0
    fallen = abs(values.max() - values.min())
    trend = "level" if abs(change) < 0.02 * fallen else "still falling" if change < 0 else "rising"
    return f"Loss went from {number(values[0])} to {number(values[-1])}; over the last tenth of the steps it is {trend}."


def _rate(run, steps, values):
    top = int(values.argmax())
    return f"Highest logged rate {number(values[top])} at step {steps[top]:,}, {number(values[-1])} at the last."


def _knn(run, steps, values):
    return _held_out(run, steps, values, "knn", "Held-out kNN (k 200, T .1)")


def _retrieved(run, steps, values):
    return _held_out(run, steps, values, "map_at_r", "MAP@R among classes that are not trained on")


def _held_out(run, steps, values, metric, what):
    before, raw, now = run.before(f"{metric}_untrained"), run.before(f"{metric}_raw"), run.last(metric)
    against = [f"{percent(value)} {other}" for value, other in ((before, "untrained"), (raw, "for raw pixels")) if value is not None]
    start = since(now, run.before(f"{metric}_start"))
    best = int(values.argmax())
    peak = f" The best, {percent(values[best])}, was at step {steps[best]:,}." if values[best] > now + 0.005 else ""
    beaten = " The pixels themselves do better: the features have not learned what the classes need." if raw is not None and raw > now else ""
    return f"{what} ends at {percent(now)}" + (f", {start}" if start else "") + (f", against {' and '.join(against)}." if against else ".") + peak + beaten


def _probe(run, steps, values):
    return f"The online probe ends at {percent(values[-1])}, on augmented training views: a sign of progress, not a held-out result."


def rank_sentence(value: float, bound: int, before: float | None) -> str:
    """RankMe in words; `bound` is the most it could be."""
    start = f", {before:.1f} untrained" if before is not None else ""
    return f"RankMe {value:.1f} of {bound}: the features use {percent(value / bound, 0)} of the directions they could{start}."


def _rank(run, steps, values):
    now, before = run.last("rankme"), run.before("rankme_untrained")
    return rank_sentence(now, run.width, before) if run.width else f"RankMe ends at {number(now)}."


def _std(run, steps, values):
    dim = run.config.get("method", {}).get("dim")
    if not dim:
        return f"Spread of the embeddings ends at {number(values[-1])}."
    even = dim ** -0.5
    state = "no sign of collapse" if values[-1] >= 0.5 * even else "uneven" if values[-1] >= 0.2 * even else "collapsing"
    return f"Spread {number(values[-1])}, where 1/√{dim} = {number(even)} is even: {state}."


def _cosine(run, steps, values):
    state = "healthy" if abs(values[-1]) < 0.3 else "on the way to collapse" if values[-1] < 0.9 else "collapsed"
    return f"Mean cosine {number(values[-1])} between different images; 1 is collapse: {state}."


def throughput(run: Run) -> float | None:
    """Images a second over the whole run; of an unfinished one the median of its logged stretches."""
    values = run.curves.get("images_per_second", ((), np.zeros(0)))[1]
    values = values[np.isfinite(values)]
    return run.last("images_per_second") if run.result else float(np.median(values)) if len(values) else None


def _speed(run, steps, values):
    return f"{number(throughput(run))} images a second over the run; the slowest logged stretch had {number(values.min())}, the fastest {number(values.max())}."


def _wait(run, steps, values):
    share = run.last("data_wait_share") if run.result else float(np.mean(values))
    advice = "raise data.workers, or make the set resident" if share > 0.1 else "the loader is no bottleneck"
    return f"{percent(share)} of the training time was spent waiting for images: {advice}."


def _grad(run, steps, values):
    typical = float(np.median(values))
    spike = int(values.argmax())
    times = values[spike] / typical if typical > 0 else 0
    much = f" The largest, {number(values[spike])} at step {steps[spike]:,}, is {times:.0f} times that." if times > 10 else ""
    return f"Gradient norm: median {number(typical)}, {number(values[-1])} at the end.{much}"


def _mfu(run, steps, values):
    return f"{percent(float(np.median(values)))} of the device's peak arithmetic is used (median)."


def spectrum(values: np.ndarray) -> str:
    """Of singular values in falling order."""
    if values[0] == 0:
        return "All features are zero: the encoder tells no image from another."
    p = values / values.sum()
    gone = int(np.sum(values < 1e-5 * values[0]))
    if gone == len(values) - 1:
        return "All features lie along one direction: the encoder has collapsed."
    enough = int(np.searchsorted(np.cumsum(p), 0.9)) + 1
    lost = f" {gone} {'direction carries' if gone == 1 else 'directions carry'} nothing." if gone else ""
    return f"The largest singular value holds {percent(p[0], 0)} of the sum, the first {min(enough, len(p))} of {len(p)} hold 90\u00a0%.{lost}"


def confusion(matrix: np.ndarray, names: list[str], *, most: int = 3) -> str:
    """The mistakes made most often."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.sum():
        return "No image was taken for another class."
    order = [divmod(int(i), len(names)) for i in np.argsort(-wrong, axis=None, kind="stable")[:most] if wrong.flat[i]]
    pairs = [f"{middle(names[a])} taken for {middle(names[b])} ({wrong[a, b]} of {matrix[a].sum()})" for a, b in order]
    return f"{wrong.sum():,} of {matrix.sum():,} are wrong. Most often: {', '.join(pairs)}."


def layers(rows: list[dict], how: str, images: int) -> str:
    """Behind which layer the classes are read off best, where the intervals tell.

    rows: layer, value in [0, 1] and interval (low, high) or None of each layer, input to output; the first is what is exported. how: the protocol. images: that were asked.
    """
    first, last = rows[0], rows[-1]
    if len(rows) == 1:
        return f"{how}: {percent(first['value'])} behind {first['layer']}."
    best = max(rows, key=lambda row: row["value"])
    values = ", ".join(f"{percent(row['value'])} behind {row['layer']}" for row in rows)

    def below(row):
        return bool(row["interval"] and best["interval"]) and row["interval"][1] < best["interval"][0]
    if best is first and below(last):
        end = f"The head, up to {last['layer']}, has learned to forget what the classes need, so take the features before it."
    elif all(below(row) for row in rows if row is not best):
        end = f"The best is {best['layer']}" + ("." if best is first else f"; what is exported is {first['layer']}.")
    else:
        end = f"These {images:,} images do not show which is best."
    return f"{how}: {values}. {end}"


def warnings(run: Run) -> list[str]:
    """Signs of collapse at the end of the run, as training itself warns of them, and scores that were no number."""
    dim = run.config.get("method", {}).get("dim")
    last = {name: float(run.curves[name][1][-1]) for name in ("collapse_std", "collapse_cosine") if name in run.curves}
    rank = run.last("rankme")
    found = collapse.warnings(last, dim) if dim else []
    leaps = {"gradient_spikes": signs.spikes(run.curves["grad_norm"][1])} if "grad_norm" in run.curves else {}
    found += signs.warnings(leaps | {name: run.curves[name][1][-1] for name in signs.SIGNS if name in run.curves}, dim, run.config.get("batch_size", 1))
    found += collapse.warnings({"rankme": rank}, run.width) if rank is not None and run.width else []
    if unmeasured := [name for name in ("rankme", "knn", "linear") if name in run.result and run.result[name] is None]:
        found.append(f"at the end {', '.join(unmeasured)} could not be measured, since features were not finite; lower optim.lr, lengthen warmup, or set optim.clip")
    if (below := run.result.get(folders.BELOW)) and isinstance(below, dict) and all(isinstance(below.get(end), int | float) for end in ("start", "end")):
        found.append(f"this run ended below its start, by {100 * (below['start'] - below['end']):.1f} points of {below.get('measure')}: {percent(below['start'])} when it began, "
                     f"{percent(below['end'])} at its end; the weights it began with are better, or one of its earlier checkpoints")
    return [sentence[:1].upper() + sentence[1:] + "." for sentence in found]
