"""run(): flags and preset → a series or a reality check → work until all is done → study.json and study.html."""
from collections.abc import Callable

from jaxssl.errors import UserError, shown
from jaxssl.studies import page, presets, reality, series, space, summary, verdict, work
from jaxssl.studies.asked import Asked, definition_of
from jaxssl.studies.settings import shown as hidden
from jaxssl.studies.trials import Stopped
from jaxssl.workdir import folder as folders


def run(asked: Asked, *, only_page: bool = False, log: Callable[[str], None] = lambda sentence: None) -> dict:
    """Works on the study until nothing is left to do, and returns what study.json holds. Raises: UserError before the first trial for what is no study; NonFiniteError never:
    such a trial counts as 0."""
    table = presets.read(asked.preset) if asked.preset else {}
    study = reality.open_(asked, table) if "reality" in table else opened(asked, table)
    write = verdict.write if "reality" in table else written
    asked = asked._replace(command=asked.command.replace(asked.storage, hidden(asked.storage)) if asked.storage else asked.command)
    if not only_page:
        try:
            work.until_done(study.tasks, log)
        except Stopped as stopped:
            log(str(stopped))
            return {"stopped": True}
    document = write(study, asked, table)
    log(f"written: {study.folder / 'study.json'} and {study.folder / 'study.html'}")
    for line in lines(document):
        log(line)
    return document


def opened(asked: Asked, table: dict) -> series.Series:
    """The series of a grid or search. Raises: UserError."""
    definition = definition_of(asked, table)
    if not (definition.axes or definition.cases or definition.seeds or definition.folds):
        raise UserError("nothing is varied; give --grid KEY=a,b, --search KEY=log:low:high, --seeds 0,1,2, or a --preset")
    return series.Series(folders.path(asked.workdir), definition, asked.storage)


def written(study: series.Series, asked: Asked, table: dict) -> dict:
    """study.json and study.html."""
    document = summary.of(study, command=asked.command, claim=table.get("claim"))
    summary.keep(study.folder, document, page.render(document, asked.preset or study.folder.name))
    return document


def lines(document: dict) -> list[str]:
    """What is printed at the end."""
    if "losses" in document:
        return verdict.lines(document)
    rows = document["settings"]
    if not rows:
        return ["no setting is finished yet"]
    found, objective = [], document["objective"]
    apart = {each["setting"]: each["apart"] for each in document["paired"]}
    for row in sorted(rows, key=lambda row: (-row["mean"], row["setting"]))[:20]:
        mark = "" if row["setting"] == document["best"] or row["setting"] not in apart else "  apart from the best" if apart[row["setting"]] else "  not told apart from the best"
        found.append(shown(f"  {page.with_half(row['mean'], row['half_width'], objective):>18}  {space.said(row['values'])}{mark}"))
    if document["claim"]:
        found.append(shown(f"claimed ({document['claim'].get('source', '')}): {document['claim'].get('text', '')}"))
    for each in document.get("came", ()):
        half = each["interval"] and (each["interval"][1] - each["interval"][0]) / 2
        found.append(shown(f"came: {each['above']} less {each['below']}: {page.with_half(each['difference'], half, objective)}: {each['verdict']}"))
    for each in document.get("correlations", ()):
        found.append(f"Spearman of {each['of']} with {each['with']}: {each['spearman']:.2f} over {each['n']} settings")
    return found
