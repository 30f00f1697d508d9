"""The early end of a run: when, what is said of it, that it goes on and stays as it should, and what could never end or would lose the best weights."""
import functools
import json
import math
import os
import signal

import pytest

from jaxssl.errors import UserError
from jaxssl.report import read
from jaxssl.training import evaluator as evaluation, patience, train
from tests.tiny import ROOT, SMALL

EVERY = {"eval_every": 2, "checkpoint_every": 1}
SCORES = (.1, .3, .3, .2, .5)        # of evaluations; the third is no better than the second


def test_evaluations_without_a_better_score_are_counted():
    assert patience.told([]) == (None, None, 0)
    assert patience.told([(2, .1), (4, .3), (6, .3), (8, math.nan), (10, None)]) == (.3, 4, 3)
    assert patience.told([(2, None), (4, -1.)]) == (-1., 4, 0)


@pytest.mark.parametrize("given, said", [
    (dict(watch="map_at_r"), "not measured .* one of knn, knn_k20, rankme"), (dict(labelled=False), "eval.watch to one of rankme"), (dict(patience=9), "has 4 evaluations"),
    (dict(every={"eval_every": 2, "checkpoint_every": 3}), "set checkpoint_every to eval_every"),
    (dict(keep_last=6), "keep_last to 7 or more"), (dict(every={"eval_every": 0}), "has 0"),
    (dict(disjoint=True, watch="knn"), "precision_at_1, map_at_r, rankme")])
def test_what_never_ends_or_loses_the_best_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        patience.check(**{"patience": 3, "watch": "", "disjoint": False, "labelled": True, "every": EVERY, "total": 10, "keep_last": 7, **given})
    patience.check(3, "", disjoint=False, labelled=True, every=EVERY, total=10, keep_last=7)


@pytest.mark.parametrize("given, said", [({"watch": "kn"}, "did you mean 'knn'"), ({"watch": "knn"}, "nothing is watched"), ({"patience": -1}, "0 or more")])
def test_wrong_keys_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        evaluation.check(**{"reference": 1, "queries": 1, "rank_samples": 2, "batch": 1, "patience": 0, "watch": "", **given})


class Given:
    """Scores that are given, in place of an evaluator; kill: ask the process to stop before so many were asked for."""

    def __init__(self, kill=None):
        self.asked, self.kill = 0, kill

    def quick(self, embed):
        self.asked += 1
        if self.asked == self.kill:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"knn": SCORES[self.before + self.asked - 1], "rankme": 3.}

    def final(self, embed, poll):
        return {"knn": .0, "rankme": 3.}

    def raw(self, poll):
        return {}


def test_a_run_ends_early_says_so_stays_so_and_goes_on_when_asked(monkeypatch, tmp_path):
    def life(before, total="12", most="2", **how):
        given = Given(how.pop("kill", None))
        given.before = before
        monkeypatch.setattr(evaluation, "make", functools.wraps(evaluation.make)(lambda **_: given))
        flags = {**SMALL, "total": total, "warmup": "0", "eval_every": "2", "checkpoint_every": "2", "checkpoint.keep_last": "4", "eval.patience": most, "log.tensorboard": "false",
                 "report": "false"}
        return train.run(str(ROOT / "configs/digits/simclr.py"), flags, str(tmp_path / "run"), **how), given

    assert life(0, kill=3)[0]["stopped"] >= 6                     # in the third evaluation, which is done by the run that follows
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "knn" in line]
    result, _ = life(len(steps))
    assert result["steps"] == 8 and result["ended_early"] == {"watched": "knn", "patience": 2, "best": .3, "step": 4}
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == result
    assert "no better knn in 2 evaluations; the best was 0.3 at step 4" in " ".join(read.run(str(tmp_path / "run"), "run").notes)
    assert {"4", "8"} <= {place.name for place in (tmp_path / "run" / "checkpoints").iterdir()}
    again, given = life(4)
    assert again == result and given.asked == 0                   # finished
    with pytest.raises(UserError, match="patience: 2 → 3"):
        life(4, most="3")
    longer, given = life(4, most="3", allow_config_change=True)
    assert longer["steps"] == 12 and "ended_early" not in longer and given.asked == 1
