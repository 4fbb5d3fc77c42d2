"""The errors that a user can cause and mend. The command line prints each as one message, exit code 2."""

from __future__ import annotations

import difflib
import errno
import re
import traceback
import unicodedata
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

PACKAGE = Path(__file__).parent


def pip_install(extra: str = "") -> str:
    """The command that installs dqlab, or an extra of it: of the clone, where this is one."""
    place, wanted = PACKAGE.parent, f"[{extra}]" if extra else ""
    what = f"-e '{place}{wanted}'" if (place / "pyproject.toml").exists() else f"'dqlab{wanted}'"
    return f"pip install {what}"


class DqlabError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do."""


class ConfigError(DqlabError):
    """A gin file, a binding or a command-line choice is wrong."""


class DataError(DqlabError):
    """A dataset is missing, broken, or not what its format promises."""


class RunError(DqlabError):
    """A run folder is in use, incomplete, or differs from what is asked of it."""


class CaptureError(RunError):
    """A program could not be recorded as a CUDA graph; what its process computes from then on is not to be believed."""


class StackError(DqlabError):
    """The process that steps environments for dqlab does not start, has died, hangs, or reports an error."""


class EnvError(DqlabError):
    """An environment raises an error, or gives what Gymnasium's interface or its own spaces do not allow."""


class NotFiniteError(EnvError):
    """An environment has given a NaN or infinite number: in `given`, the observation of a reset, or all of a step."""

    def __init__(self, message: str, given: Any) -> None:
        super().__init__(message)
        self.given = given


class StoppedError(Exception):
    """A run was asked to stop, and its checkpoint is written: no mistake of anybody's."""


def message_of(error: BaseException) -> str:
    """An error's own message, without the call chain that gin appends to every error passing through it."""
    return str(error).split("\n  In call to configurable", 1)[0]


def first_line(error: BaseException) -> str:
    """The first line of an error's own message; its kind where it says nothing, as a bare MemoryError does."""
    return next((line.strip() for line in message_of(error).splitlines() if line.strip()), type(error).__name__)


NO_MEMORY = re.compile(
    r"(?i)out of memory|not enough memory|no memory|bad_?alloc|memory[ _]?allocation|alloc_?failed"
    r"|(cannot|can't|could not|unable to|failed to) (be )?allocate"
)
"""What Python, NumPy, PyTorch, CUDA, HDF5 and C++ say where there is no memory left."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, whoever raised it, says that there is no memory left."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or bool(NO_MEMORY.search(str(error)))


def odd_character(text: str) -> str:
    """A sentence on the first character, as of a web page, that is neither plain text nor alphanumeric; or nothing."""
    for column, character in enumerate(text, 1):
        if not (character.isalnum() or character == "\t" or " " <= character <= "~"):
            named = f"{unicodedata.name(character, 'CONTROL CHARACTER')} (U+{ord(character):04X})"
            return f"Column {column} has the character {named}: replace it by a plain one."
    return ""


MANY = 20  # more names than that do not help in a message


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence naming the known names closest to a misspelt one, or all of them where none is close."""
    known = sorted(known)
    likeness = {item: difflib.SequenceMatcher(None, item.lower(), name.lower()).ratio() for item in known}
    least = max([0.5, *(ratio - 0.1 for ratio in likeness.values())])
    close = sorted((item for item in known if likeness[item] >= least), key=lambda item: -likeness[item])
    if close:
        strange = next((c for c in name if not c.isascii() and not any(c in item for item in known)), "")
        looks_plain = f"It has the character {unicodedata.name(strange, ascii(strange))}. " if strange else ""
        return f"{looks_plain}Did you mean " + " or ".join(f"'{item}'" for item in sorted(close[:3])) + "?"
    if len(known) > MANY:
        return "Nothing has a similar name; `dqlab list` shows what there is."
    return "Known: " + (", ".join(known) if known else "none") + "."


def nearest_of_few(name: str, known: Iterable[str]) -> str:
    """The same with all names behind it, where they are not many."""
    said = nearest(name, known := sorted(known))
    return said if said.startswith("Known") or len(known) > MANY else f"{said} Known: {', '.join(known)}."


def error_place(error: BaseException) -> str:
    """`file:line` of the innermost frame outside of libraries: of code that dqlab called, if there is any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not {"site-packages", "lib"} & set(Path(frame.filename).parts)]
    in_dqlab = [PACKAGE in Path(frame.filename).parents for frame in own]
    called = [frame for place, frame in enumerate(own) if any(in_dqlab[:place]) and not in_dqlab[place]]
    last = (called or own or frames)[-1]
    return f"{last.filename}:{last.lineno}"


LONGEST = 4_000  # characters of one message
USER = re.compile(r"""(://)(?:[^\s/?#'"]*@|[^\s/@:'"]*:(?!\d+/)[^\s'"]*@)""")
SECRET = re.compile(r"""(?i)([?&;][\w.-]*(?:passw|pwd|token|secret|credential|key)[\w.-]*=)[^&;\s#'"]+""")
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")  # Unicode's categories of what a terminal obeys, or does not show


def masked(text: str) -> str:
    """A text with `***` for users and passwords in its addresses, and for secrets in their queries."""
    return SECRET.sub(r"\1***", USER.sub(r"\1***@", text))


def printable(text: object, most: int = LONGEST, keep: str = "\n\t") -> str:
    """A text that a terminal shows and does not obey: control characters but `keep` as escapes, cut to some `most`."""
    shown = whole = str(text)
    if len(whole) > most:
        shown = f"{whole[: most // 2]} ... {whole[-(most // 2) :]} ({len(whole):,} characters)"
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join(c if c in keep or unicodedata.category(c) not in HIDDEN else ascii(c)[1:-1] for c in shown)


def printable_name(text: object) -> str:
    """A name out of a file, in one line."""
    return printable(text, 80, keep="")


def printable_names(texts: Iterable[object]) -> str:
    """Names out of a file, sorted and separated by commas; many are cut short."""
    listed = sorted(map(str, texts))
    more = f", ... ({len(listed):,} in all)" if len(listed) > MANY else ""
    return ", ".join(map(printable_name, listed[:MANY])) + more


def one_line(error: BaseException, most: int = 300) -> str:
    """The first line of what an error says, or its name where it says nothing; without passwords."""
    said = str(getattr(error, "strerror", None) or first_line(error)).splitlines()[0]
    return printable(masked(said), most, keep="")


P = ParamSpec("P")
R = TypeVar("R")
OPTION = re.compile(r"(?<![\w-])--(resume|out|set|seeds?|task|checkpoint|plugin|grid|force|retry)\b")


def mistake_in_gin(error: BaseException) -> str:
    """What to say where gin cannot make what a configuration says; nothing of other errors."""
    if isinstance(error, RecursionError):
        innermost = traceback.extract_tb(error.__traceback__, limit=-100)
        if any(Path(frame.filename).parts[-2:] == ("gin", "config.py") for frame in innermost):
            return "Something is made of itself: bindings in gin lead back to where they begin."
    if "No values supplied by Gin" in str(error):
        return f"{first_line(error)}. Bind it in gin, or leave off the () behind an @name."
    return ""


def in_python(function: Callable[P, R]) -> Callable[P, R]:
    """The same function, whose errors name an argument where a command's would name its option."""

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        try:
            return function(*args, **options)
        except DqlabError as error:
            error.args = (
                OPTION.sub(lambda found: f"`{found[1]}{'s' * (found[1] == 'plugin')}`", str(error)),
                *error.args[1:],
            )
            raise
        except (TypeError, RecursionError) as error:
            if said := mistake_in_gin(error):
                raise ConfigError(said) from error
            raise

    return call


UNSCORED = "returns, no scores"  # of a task without reference scores: what is called a score there is the return
SUCCESS = "success rate in %"  # of a task that is solved or not


def score_or_return(caveat: str) -> str:
    """What numbers beside which this stands are: a `score`, or a `return`."""
    return "return" if UNSCORED in caveat else "score"
