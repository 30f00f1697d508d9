"""What weights a run learned from, in its workdir: those that it began with and its teacher's, by name, digest and licence, which goes with what it learned."""
import json

from jaxssl.workdir import folder as folders

FILE = "learned_from.json"


def kept(sources: dict[str, dict]) -> dict[str, str]:
    """{name of a file in the workdir: its text} of {"init_from" or a place in aux: {"name", "model", "licence", "digest"}}; {} for none."""
    return {FILE: json.dumps(sources, indent=1, ensure_ascii=False)} if sources else {}


def licence(workdir: str) -> str:
    """The licences of all that the run learned from, each once, with commas between them; "" where none is stated. Raises: UserError for a file that is torn."""
    found = folders.read_json(folders.path(workdir) / FILE) or {}
    stated = [source["licence"] for source in found.values() if isinstance(source, dict) and isinstance(source.get("licence"), str)]
    return ", ".join(dict.fromkeys(filter(None, stated)))
