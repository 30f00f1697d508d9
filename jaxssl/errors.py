"""What went wrong, said in one sentence; `main` prints it and exits with the `code` of its kind."""
import difflib
import re
from collections.abc import Collection, Iterable

SHOWN = 5    # names in a sentence


class UserError(Exception):
    """A mistake the user can mend. The message is one sentence: what came, what was expected, what to do next."""
    code = 2


class Temporary(UserError):
    """What a later try may find mended."""
    code = 75                                        # EX_TEMPFAIL


class NotJoined(Temporary):
    """The processes of a run did not find one another."""


class NonFiniteError(Exception):
    """The loss, a gradient or an array of the train state is no longer finite."""
    code = 3


class Interrupted(Exception):
    """An evaluation was left early because a process was asked to stop."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the choice closest to `word`, or the empty string when none is close."""
    match = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


def listed(names: Iterable[str], most: int = SHOWN) -> str:
    """The first names, and how many more there are; `whole` or a file has the rest."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") if names else "none"


def whole(lists: dict[str, Collection[str]], most: int = SHOWN) -> str:
    """For the end of an error: every list that `listed` cuts, complete and sorted, a name a line."""
    return "".join("\n" + section(what, names) for what, names in lists.items() if len(names) > most)


def section(what: str, names: Collection[str]) -> str:
    """A heading with the number of names, and every name on a line, sorted."""
    return "\n".join([f"{what} ({len(names)}):", *(f"  {name}" for name in sorted(names))])


# What acts on a terminal or turns the order of the text around it: control characters, line and paragraph separators, and Unicode's direction overrides.
_ACTS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def shown(name: str) -> str:
    """`name` of a file, folder or class with whatever would act on a terminal or a page written as an escape (`\\x1b`); other names as they are."""
    return name if name.isprintable() else _ACTS.sub(lambda match: match[0].encode("unicode_escape").decode(), name)
