"""A recipe as a config file, which loads and trains as written: every section with its reasons above it."""
import textwrap
from collections.abc import Iterable

from jaxssl.advice.look import Facts
from jaxssl.advice.rules import Machine, Reason, Recipe
from jaxssl.errors import shown

ORDER = ("data", "augment", "local", "model", "method", "optim", "checkpoint")
_WIDE = 150
_EVIDENCE = ("published: a paper's or its code's own value; measured: by this project or on these images; thin: a rule of thumb, which a short study of your own "
             "(python -m jaxssl.study) may well correct")


def text(facts: Facts, machine: Machine, recipe: Recipe, *, costs: Iterable[str], command: str, out: str) -> str:
    """The file. costs: what a run takes, a sentence each. command: that wrote it. out: where it goes, "" for nowhere yet."""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in facts.kinds[:4])
    held = "none are held out" if facts.held_out is None else f"{facts.held_out:,} more are held out"
    about = [f"{facts.images:,} training images ({held}), {facts.classes or 'no'} classes; {facts.looked:,} were looked at: {kinds}",
             f"shorter side {facts.short[0]} to {facts.short[2]} pixels, {facts.short[1]:g} in the median; longer side {facts.long[0]} to {facts.long[2]}, {facts.long[1]:g} in "
             "the median", *facts.said]
    head = [f"{recipe.config['method']['name']} on {facts.images:,} images of one's own, as `python -m jaxssl.recipe` advises.", "",
            f"Command:  python -m jaxssl.main --config {out or 'THIS_FILE'} --workdir runs/mine", *_list("Data:", about), *_list("Hardware:", [machine.said, *costs]),
            *_list("Expected:", ["nothing is promised; watch knn, or rankme where there are no labels, rise above the untrained encoder's"]),
            *_list("Look at:", recipe.warnings), *_list("Evidence:", [_EVIDENCE]), *_list("Written:", [command])]
    body = []
    for key, value in recipe.config[""].items():
        body += [*_why(recipe.reasons.get(key, [])), f"        {key}={value!r},"]
    for section in (section for section in ORDER if section in recipe.config):
        body += [*_why(recipe.reasons.get(section, [])), *_section(section, [f"{key}={value!r}" for key, value in recipe.config[section].items()])]
    doc = "\n".join(shown(line) for line in head).replace("\\", "\\\\").replace('"', "'")
    return "\n".join([f'"""{doc}', '"""', "from ml_collections import ConfigDict", "", "", 'def get_config(variant=""):', "    return ConfigDict(dict(",
                      *body[:-1], body[-1].removesuffix(",") + "))", ""])


def _section(name: str, items: list[str]) -> list[str]:
    """`name=dict(…),` in lines; no item is broken."""
    lines, indent = [f"        {name}=dict("], " " * (14 + len(name))
    for item in items:
        full = len(lines[-1]) + len(item) > _WIDE and not lines[-1].endswith("(")
        if full:
            lines[-1] = lines[-1].rstrip()
            lines.append(indent)
        lines[-1] += f"{item}, "
    return [*lines[:-1], lines[-1].removesuffix(", ") + "),"]


def _why(reasons: list[Reason]) -> list[str]:
    return [line for reason in reasons
            for line in textwrap.wrap(shown(f"{reason.text} ({reason.evidence}: {reason.source})"), _WIDE, initial_indent="        # ", subsequent_indent="        #   ")]


def _list(head: str, sentences: Iterable[str]) -> list[str]:
    """Sentences under a head of the docstring."""
    found = []
    for sentence in sentences:
        found += textwrap.wrap(sentence, _WIDE, initial_indent=f"{'' if found else head:<10}", subsequent_indent=" " * 12, break_long_words=False)
    return found
