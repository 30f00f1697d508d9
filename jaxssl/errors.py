"""What went wrong, said in one sentence; `main` prints it and exits with the `code` of its kind."""
import difflib
import errno
import os
import re
from collections.abc import Collection, Iterable

SHOWN = 5    # names in a sentence


class UserError(Exception):
    """A mistake the user can mend. The message is one sentence: what came, what was expected, what to do next."""
    code = 2


class Temporary(UserError):
    """What a later try may find mended."""
    code = 75                                        # EX_TEMPFAIL


# errno -> what to do about it, whatever the program was about to do; others are left to their own words.
REMEDIES = {
    errno.ENOSPC: "make room on that disk, or choose another place", errno.EDQUOT: "make room in your quota, or choose another place",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f), or choose another file system",
    errno.EROFS: "it can only be read; choose a place that can be written", errno.EACCES: "get the right to it, or choose another place",
    errno.EPERM: "get the right to it, or choose another place", errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "something moved or deleted it, or it never was; see that the folder is there, and start again",
    errno.ENOTDIR: "a part of its path is no folder; choose another path",
    errno.EISDIR: "a folder is in the place of the file; choose another path", errno.ELOOP: "its links lead in a circle; mend them",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or lower data.workers", errno.ENFILE: "the machine has too many files open; end what opened them",
    errno.EEXIST: "choose another name, or take away what is there", errno.ENOTEMPTY: "choose another name, or take away what is there",
    errno.EXDEV: "it crosses file systems; choose places on one", errno.ENOMEM: "the machine has no memory left; end other programs or ask for less",
    errno.EAGAIN: "the machine starts no more processes or threads for you (ulimit -u); lower data.workers", errno.ENXIO: "it is a pipe or a device; choose a file on a disk"}
# What a later try may find mended: disks and servers that do not answer.
PASSING = {getattr(errno, name, 0) for name in ("EIO", "ESTALE", "ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EREMOTEIO",
                                                  "EBUSY", "ENETDOWN", "EHOSTDOWN", "ENOTCONN")} - {0}
_OS_ERROR = re.compile(r"\bOS error (\d+)\b|\[Errno (\d+)\]")       # as tensorstore has it, and Python where a library keeps its text alone
_IN_WORDS = {os.strerror(number): number for number in (*REMEDIES, *PASSING)}       # as C++ libraries have it
_NO_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|[Oo]ut of memory|Unable to allocate")


def system(error: BaseException) -> UserError | None:
    """What the system refused, as a sentence that says what to do: no room, no right, no such place, no memory. None for an error that is something else.

    The one boundary of its kind: nobody else needs to know of full disks. It looks at what an error was raised from, too, since libraries wrap.
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__)) and cause not in chain:
        chain.append(cause)
    return next(filter(None, map(_refusal, chain)), None)


def _refusal(error):
    text = shown(" ".join(str(error).split()))[:300]
    spoken = _OS_ERROR.search(str(error))
    number = getattr(error, "errno", None) or int(spoken and (spoken[1] or spoken[2]) or next((_IN_WORDS[words] for words in _IN_WORDS if words in str(error)), 0))
    if isinstance(error, MemoryError) or not number and not isinstance(error, OSError) and _NO_MEMORY.search(text):
        return UserError(f"out of memory ({text or 'the machine has no more'}); lower batch_size, micro_batch, eval.batch, the sizes of model and views, or data.workers; "
                         "python -m jaxssl.plan says what a config takes")
    if not (isinstance(error, OSError) or number):
        return None
    places = [shown(os.fsdecode(name)) for name in (getattr(error, "filename", None), getattr(error, "filename2", None)) if isinstance(name, str | bytes)]
    told = text or type(error).__name__
    what = (os.strerror(number) if isinstance(error, OSError) else f"{os.strerror(number)} ({told})") if number > 0 else told
    passing = number in PASSING or isinstance(error, TimeoutError | ConnectionError)
    remedy = REMEDIES.get(number, "see that its disk or server answers, and try again" if passing else "see that it is there and may be used")
    return (Temporary if passing else UserError)(f"{' → '.join(places)}{': ' if places else ''}{what}; {remedy}")


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
