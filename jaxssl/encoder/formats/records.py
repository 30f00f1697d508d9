"""What travels with our weights: the record in a safetensors file's metadata, from which an encoder is built again without its workdir."""
import hashlib
import json
from pathlib import Path

import numpy as np

from jaxssl import encoder as encoders, tree
from jaxssl.errors import UserError
from jaxssl.encoder.formats import files, names

KEY, VERSION = "jaxssl", 1
FIELDS = ("version", "layout", "name", "weights", "step", "digest", "config")
ASSUMED = ("architecture", "heads", "eps", "pool", "size", "resize", "interpolation", "mean", "std")


def parts(variables: dict, wanted: tuple[str, ...]) -> dict:
    """`variables` with only the networks named in `wanted`."""
    return {collection: {n: v for n, v in networks.items() if n in wanted} for collection, networks in variables.items()}


def metadata(encoder, layout: str, variables: dict) -> dict[str, str]:
    """The metadata of a file that holds `variables` of `encoder`; `format` is what transformers asks for."""
    record = {"version": VERSION, "layout": layout, "name": encoder.name, "weights": encoder.weights, "step": encoder.step,
              "digest": tree.digest(variables), "config": public(encoder.config), "assumed": list(encoder.origin.assumed),
              "replaced": list(encoder.origin.replaced), **({"licence": encoder.origin.licence} if encoder.origin.licence else {})}
    return {"format": "flax" if layout == "safetensors" else "pt", KEY: json.dumps({**record, "record_digest": sealed(record)})}


def sealed(record: dict) -> str:
    """sha256 over a record, that of its arrays included, without `record_digest`."""
    return hashlib.sha256(json.dumps({key: value for key, value in record.items() if key != "record_digest"}, sort_keys=True).encode()).hexdigest()


def public(config: dict) -> dict:
    """The config without the folders of the machine it ran on: an export is made to be passed on."""
    config = json.loads(json.dumps(config))
    method = config.get("method", {})
    for section, key in ((config.get("data", {}), "path"), (config.get("data", {}), "test_path"), (config, "init_from"), (method, "teacher")):
        if section.get(key) and isinstance(section[key], str):
            section[key] = Path(section[key]).name
    return config


def parse(path: Path, metadata: dict[str, str]) -> dict | None:
    """Our record in a file's metadata; None when another program wrote the file. Raises: UserError when it is damaged or of a newer version."""
    if KEY not in metadata:
        return None
    try:
        record = json.loads(metadata[KEY])
        version = record["version"]
        missing = [f for f in FIELDS if f not in record]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"the record in {path} cannot be read ({type(error).__name__}: {error}); the file is corrupted: export it again") from error
    if version != VERSION:
        raise UserError(f"{path} was written by a version of jaxssl with records of version {version}; this one reads version {VERSION}")
    if missing:
        raise UserError(f"the record in {path} lacks {', '.join(missing)}; the file is corrupted: export it again")
    if record.get("record_digest", sealed(record)) != sealed(record):       # older files have none
        raise UserError(f"{path} was changed since it was exported: its record does not have the digest that it names; it is corrupted or edited: export it again")
    wrong = [field for field, good in valid(record).items() if not good]
    if wrong:
        raise UserError(f"the record in {path} states {wrong[0]} {record[wrong[0]]!r:.100}, which this program never writes; the file is corrupted or edited: export it again")
    return record


def valid(record: dict) -> dict[str, bool]:
    """For each field that people are shown, whether this program could have written it."""
    words = lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value)
    return {"name": isinstance(record["name"], str), "weights": record["weights"] in encoders.WEIGHTS, "step": record["step"] is None or type(record["step"]) is int,
            "config": isinstance(record["config"], dict), "assumed": words(assumed := record.get("assumed", [])) and set(assumed) <= set(ASSUMED),
            "replaced": words(record.get("replaced", [])), "licence": isinstance(record.get("licence", ""), str)}


def write_torch(encoder, folder: Path, layout: str, table: dict[str, names.Tensor], constants: dict[str, np.ndarray] = {}) -> None:
    """The encoder (without heads) as a torch state dict in `folder/model.safetensors`. constants: what the library's network has beside ours.

    Raises: UserError when a tensor has no place in `table`.
    """
    variables = parts(encoder.variables, ("encoder",))
    tensors = names.theirs(table, tree.names(variables))
    counter = np.asarray(encoder.step or 0, np.int64)
    counters = {name.removesuffix("running_var") + names.COUNTERS: counter for name in table if name.endswith(".running_var")}
    files.write(folder / files.WEIGHTS, {**tensors, **constants, **counters}, metadata(encoder, layout, variables))
