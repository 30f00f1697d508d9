"""What a study came to, as a small JSON and a drawing for benchmarks/results.

    python benchmarks/study_figures.py studies/reality/study.json reality_check        # benchmarks/results/reality_check.json and .svg

Of a reality check the test scores of each loss with Student's 95 % intervals; of a grid over one axis its means with theirs.
"""
import argparse
import json
from pathlib import Path

from machine import machine

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("config", "set", "objective", "folds", "seeds", "trials", "sampler", "reproductions", "complete", "cost", "claim")


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("study")
    flags.add_argument("name")
    flags.add_argument("--note", default="", help="what else is to be known of how it was run")
    args = flags.parse_args()
    found, out = json.loads(Path(args.study).read_text()), ROOT / "benchmarks/results"
    losses = found.get("kind") == "reality_check"
    kept = {name: found[name] for name in NAMES if name in found}
    kept["set"] = {key: Path(text).name if key == "data.path" else text for key, text in kept.get("set", {}).items()}
    result = {**({"note": args.note} if args.note else {}), "machine": machine("jax", "optuna"), **kept, **(of_losses(found) if losses else of_grid(found))}
    (out / f"{args.name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    draw(result, out / f"{args.name}.svg", losses)
    print(json.dumps(result, indent=1, ensure_ascii=False))


def short(score):
    return {key: rounded(score[key]) for key in ("mean", "half_width", "n", "values") if key in score} if score else None


def rounded(value):
    return [round(each, 4) for each in value] if isinstance(value, list) else round(value, 4) if isinstance(value, float) else value


def of_losses(found):
    rows = {name: {"settings": own["searched"], "best setting": own["chosen"] and own["chosen"]["values"],
                   "validation": short(own["validation"]), "validation again": short(own["revalidated"]),
                   "first and best setting's validation": [rounded(own["spread"][0]), rounded(max(own["spread"]))] if own["spread"] else None, "seconds": round(own["seconds"]),
                   **{how: {measure: {which: short(score) for which, score in each.items()} for measure, each in scores.items()} for how, scores in own["scores"].items()}}
            for name, own in found["losses"].items()}
    apart = {how: [f"{each['a']} {100 * each['difference']:+.2f} {each['b']}" for each in found["differences"] if each["how"] == how and each["apart"]]
             for how in ("separated", "concatenated")}
    pairs = {how: sum(each["how"] == how for each in found["differences"]) for how in apart}
    return {"baselines": {name: {key: rounded(value) for key, value in own.items()} for name, own in found["baselines"].items()}, "pairs": pairs,
            "apart (Holm, 5 %), in points of MAP@R": apart, "losses": rows}


def of_grid(found):
    rows = [{"values": row["values"], "mean": rounded(row["mean"]), "half_width": rounded(row["half_width"]), "n": row["n"]} for row in found["settings"]]
    less = [{"setting": row["values"], "less the best": rounded(each["difference"]), "interval": rounded(list(each["interval"])), "n": each["n"],
             "apart": each["apart"]}
            for each in found.get("paired", ()) for row in found["settings"] if row["setting"] == each["setting"]]
    came = [{**each, "difference": rounded(each["difference"]), "interval": rounded(each["interval"])} for each in found.get("came", ())]
    return {"settings": rows, "paired over folds and seeds": less, "came": came}


def draw(result, path, losses):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "jaxssl"
    from matplotlib import pyplot
    if losses:
        figure, sides = pyplot.subplots(1, 2, figsize=(9, 3.4), sharey=True)
        order = sorted(result["losses"], key=lambda name: (result["losses"][name].get("separated", {}).get("MAP@R", {}).get("without") or {"mean": 0})["mean"])
        for side, how in zip(sides, ("separated", "concatenated")):
            for place, name in enumerate(order):
                score = result["losses"][name].get(how, {}).get("MAP@R", {}).get("without")
                if score:
                    side.errorbar(100 * score["mean"], place, xerr=100 * (score["half_width"] or 0), fmt="o", color="black", capsize=3, markersize=4)
                    side.plot([100 * value for value in score["values"]], [place] * len(score["values"]), "|", color="0.6", markersize=5, zorder=0)
            side.set_yticks(range(len(order)), order)
            side.set_title(f"test MAP@R, {how}, %")
            side.grid(axis="x", alpha=.3)
    else:
        figure, side = pyplot.subplots(figsize=(5, 3.2))
        axis = next(iter(result["settings"][0]["values"]))
        points = sorted((float(row["values"][axis]), 100 * row["mean"], 100 * (row["half_width"] or 0)) for row in result["settings"])
        side.errorbar(*zip(*((x, y) for x, y, _ in points)), yerr=[half for *_, half in points], fmt="o-", color="black", capsize=3)
        side.set_xlabel(axis)
        side.set_ylabel(f"validation {result['objective']}, %")
        side.set_ylim(bottom=0)
        side.grid(alpha=.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
