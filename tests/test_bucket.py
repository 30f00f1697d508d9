"""A run's folder in a bucket: the real etils.epath over objects in memory."""
import json
import types

import jax
import pytest

from jaxssl.workdir import folder as workdir
from jaxssl.evaluation.tables import document
from jaxssl.training import monitor
from jaxssl.parallel import mesh as sharding
from jaxssl.errors import UserError

OLD, NEW = '{"seed": 0}', '{"seed": 1}'


@pytest.fixture
def bucket(monkeypatch):
    """The file system that gs://… opens. As gcsfs has it: no empty folders, one whole write for an object, and errors of its own kind where `refuses`."""
    from etils.epath import backend, gpath
    from fsspec.implementations.memory import MemoryFileSystem

    class Objects(MemoryFileSystem):
        cachable, store, pseudo_dirs, refuses = False, {}, [""], False

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).removeprefix("gs://"))

        def makedirs(self, path, exist_ok=False):
            pass

        def mkdir(self, path, create_parents=True, **_):
            raise PermissionError(f"no right to look at the bucket of {path}")   # asked for unless parents are made

        def open(self, path, mode="rb", **how):
            if self.refuses and "w" in mode:
                raise RuntimeError("403 Forbidden")
            return super().open(path, mode, **how)

    made = Objects()
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: made)
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)
    return made


def claim(config, place="gs://bkt/run", *, allow_change=False):
    workdir.claim(place, workdir.look(place, config, {"training_images": 4}, total=2, allow_change=allow_change))


def read(name):
    return workdir.read_json(workdir.path("gs://bkt/run") / name)


@pytest.mark.parametrize("error, code", [(ConnectionError("no route"), 75), (TimeoutError("30 s"), 75), (PermissionError("403"), 2), (FileNotFoundError("no bucket"), 2),
                                         (RuntimeError("401"), 2)])
def test_a_bucket_out_of_reach_is_tried_again_where_that_may_help(bucket, monkeypatch, error, code):
    def exists(path):
        raise error
    monkeypatch.setattr(bucket, "exists", exists)
    with pytest.raises(UserError, match="cannot be reached") as raised:
        workdir.path("gs://bkt/run")
    assert raised.value.code == code


@pytest.mark.parametrize("address", ["s3://bucket/run", "az://bucket/run", "hf://who/what", "gs://b/run", "gs:///run", "http://host/run", "://"])
def test_an_address_that_cannot_hold_checkpoints_is_refused_at_once(address):
    with pytest.raises(UserError, match="no place for a run: checkpoints go to folders, and to buckets of Google Cloud Storage"):
        workdir.path(address)


def test_what_other_processes_write_is_seen(bucket):
    """gcsfs takes what a listing lacks for not there, and keeps listings unless it is told not to: the second process of a run found its workdir deleted at the first save."""
    from fsspec import config
    for kind in (("gs", "gcs"), "gcs"):
        workdir.path("gs://bkt/run")
        assert config.apply_config(types.SimpleNamespace(protocol=kind), {}) == {"use_listings_cache": False}


def test_a_bucket_is_claimed_and_its_files_are_written_again(bucket):
    claim(OLD)
    assert read("config.json") == {"seed": 0} and read("environment.json")["devices"] == len(jax.devices())
    claim(OLD)
    with pytest.raises(UserError, match="seed: 0 → 1"):
        claim(NEW)
    claim(NEW, allow_change=True)
    for step in (1, 2):
        workdir.write(workdir.path("gs://bkt/run") / "run.json", json.dumps({"steps": step}))
    assert read("config.json") == {"seed": 1} and read("run.json") == {"steps": 2}
    assert sorted(bucket.store) == [f"/bkt/run/{name}.json" for name in ("config", "data", "environment", "run")]


def test_a_foreign_folder_of_a_bucket_is_refused(bucket):
    bucket.pipe("gs://bkt/photos/a.jpg", b"")
    with pytest.raises(UserError, match="not a run of this program"):
        claim(OLD, "gs://bkt/photos")
    assert list(bucket.store) == ["/bkt/photos/a.jpg"]


def test_a_bucket_that_refuses_is_a_sentence(bucket):
    bucket.refuses = True
    with pytest.raises(UserError, match=r"cannot write in workdir gs://bkt/run \(RuntimeError: 403 Forbidden\)"):
        claim(OLD)
    with pytest.raises(UserError, match=r"cannot write gs://bkt/run/evaluations/1.json \(RuntimeError: 403 Forbidden\); give another folder with --out"):
        document.save({"file": "gs://bkt/run/evaluations/1.json", "rows": []})


def test_scores_of_the_untrained_encoder_reach_a_bucket(bucket):
    """Without the right to look at the bucket itself, which objects in it do not need."""
    evaluator = types.SimpleNamespace(final=lambda embed, poll: {"knn": 0.5}, raw=lambda poll: {"knn_raw": 0.25})
    looker = monitor.Monitor(evaluator, None, sharding.make_mesh(devices=jax.devices()), workdir.path("gs://bkt/run"), stop=False)
    looker.first(None)
    assert read("evaluations/untrained.json") == {"knn_untrained": 0.5, "knn_raw": 0.25}


def test_a_folder_of_a_bucket_is_moved(bucket):
    for name in ("3/state/d/abc", "3/meta/metadata", "4/meta/metadata"):
        bucket.pipe(f"gs://bkt/run/checkpoints/{name}", name.encode())
    place = workdir.path("gs://bkt/run")
    workdir.move(place / "checkpoints" / "3", place / "unsound" / "3")
    assert bucket.store.keys() == {"/bkt/run/unsound/3/state/d/abc", "/bkt/run/unsound/3/meta/metadata", "/bkt/run/checkpoints/4/meta/metadata"}
    assert (place / "unsound" / "3" / "state" / "d" / "abc").read_text() == "3/state/d/abc"


def test_names_that_are_no_text_are_written_to_a_folder_and_a_bucket(bucket, tmp_path):
    for file in (tmp_path / "a.txt", workdir.path("gs://bkt/run") / "a.txt"):
        for text in ("first", "caf\udce9 é"):
            workdir.write(file, text)
        assert file.read_bytes() == "caf? é".encode()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
