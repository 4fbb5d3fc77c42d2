"""gin, strictly: every mistake in a configuration is one message with file, line and the nearest name.

Files include others relative to themselves. What a run really used is gin's operative configuration;
`operative_text` writes it so that it reproduces the run.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config
from gin import config_parser

from dqlab.errors import ConfigError, first_line, nearest
from dqlab.files import expanded
from dqlab.gin_references import check_calls
from dqlab.gin_registry import configurables, short
from dqlab.gin_statements import statements, text_of, unknown_name
from dqlab.registry import configurable

CONFIGURABLE = (
    "dqlab.parts",
    "dqlab.experiment",
    "dqlab.ablation.grid",
    "dqlab.ablation.report_settings",
    "dqlab.tracking.settings",
    "dqlab.collection.recipe",
)
"""Importing these registers everything that gin files can set."""

SHIPPED = [
    root / folder for root in (Path(__file__).parent, Path(__file__).parent.parent) for folder in ("gin", "ablations")
]
"""Where dqlab's own gin files lie: in an installed package, and in a checkout."""


@configurable("configuration")
def import_path(folders: tuple[str, ...] = ()) -> None:
    """Where modules of the user's are found, beside Python's own places: `load` reads it, wherever it is bound.

    Args:
        folders: absolute paths. A gin file's own folder need not be named; a run's config.gin, which lies elsewhere,
            names those of the gin files that it came from.
    """


@dataclass
class Loaded:
    """What was read.

    Attributes:
        files: in order.
        imports: modules, imported by gin files or as plugins.
        single: names of the single bindings.
        own: name -> file and line of what is bound in gin files other than dqlab's.
        folders: where modules of the user's are found: the gin files' own folders, and those of `import_path`.
        stored: whether a run has stored what is read.
    """

    files: list[Path] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    single: list[str] = field(default_factory=list)
    own: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    stored: bool = False

    def header(self) -> str:
        """The gin statements that come first, so that the others can be read from anywhere."""
        folders = tuple(str(folder) for folder in self.folders if _has_modules(folder))
        found = f"import_path.folders = {folders!r}\n" if folders else ""
        return found + "".join(f"import {module}\n" for module in self.imports)


def load_stored(config: Path, bindings: Sequence[str] = ()) -> Loaded:
    """Make the configuration that a run has stored the current one, then single bindings.

    The folder may be somebody else's: nothing is imported from it, and the folders that it names for modules are looked
    into only where Python looks anyway, or works now. Others wait for `import_path.folders` among the bindings.

    Raises:
        ConfigError: as `load` does.
    """
    return load([config], bindings, stored=True)


def load(
    files: Sequence[str | Path], bindings: Sequence[str] = (), imports: Sequence[str] = (), stored: bool = False
) -> Loaded:
    """Replace the current configuration by gin files, then single bindings.

    Args:
        files: gin files, later ones overriding earlier ones.
        bindings: `Configurable.parameter=value` strings, overriding the files.
        imports: modules (plugins) to import first.
        stored: whether the files are a run's, as `load_stored` says.

    Raises:
        ConfigError: a file is missing; a line cannot be parsed; a configurable, parameter or module is unknown.
    """
    for module in CONFIGURABLE:
        importlib.import_module(module)
    gin.clear_config()
    loaded, found = Loaded(stored=stored), [find(path) for path in files]
    for binding in (binding for binding in bindings if binding.startswith("import_path.")):
        _load_text(binding, f"--set {binding}", loaded)
    if not stored:
        _import_from((path.parent for path in found), loaded)
    for module in imports:
        _import(module, "--plugin", loaded)
    for path in found:
        _load_file(path, loaded)
    for binding in bindings:
        _load_text(_quoted(binding), f"--set {binding}", loaded)
        loaded.single += names_of(binding)
    _check_macros()
    check_calls(gin_config._CONFIG)
    return loaded


def find(path: str | Path) -> Path:
    """A gin file where it is named, or among those that ship with dqlab.

    Raises:
        ConfigError: it is in neither place.
    """
    path = expanded(path)
    if os.path.isdir(path):
        raise ConfigError(f"'{path}' is a folder. Name a gin file in it.")
    named = [folder.parent / path for folder in SHIPPED if path.parts[:1] == (folder.name,)]
    for candidate in (path, *named, *(folder / path for folder in SHIPPED)):
        if os.path.isfile(candidate):  # False, too, for what no file can be called
            return candidate
    here = [str(other) for other in path.parent.glob("*.gin")]
    shipped = [f"{folder.name}/{other.name}" for folder in SHIPPED for other in folder.glob("*.gin")]
    raise ConfigError(f"There is no gin file '{path}'. {nearest(str(path), {*here, *shipped})}")


def bindings_of(path: str | Path) -> dict[str, Any]:
    """What a gin file and those that it includes bind, as written, later ones overriding; nothing is changed.

    Raises:
        ConfigError: a file is missing, or a line cannot be parsed.
    """
    found = (s for s, _ in _of_file(find(path), []) if isinstance(s, config_parser.BindingStatement))
    return {_written_name(statement): statement.value for statement in found}


def operative_text(loaded: Loaded) -> str:
    """The operative configuration as a gin file that reproduces what has been built since `load`."""
    return loaded.header() + str(gin.operative_config_str(max_line_length=120))


def bound() -> dict[str, Any]:
    """What the current configuration binds, by complete name `module.Configurable.parameter`; macros by their own."""
    return _by_name(gin_config._CONFIG)


def value(name: str, default: Any = None) -> Any:
    """What a parameter gets from the current configuration, by complete name: references and macros are evaluated."""
    return copy.deepcopy(bound().get(name, default))


def bind(name: str, value: Any) -> None:
    """Set one more parameter of the current configuration, by complete name, over what binds it so far."""
    with gin.unlock_config():
        gin.bind_parameter(name, value)


def used() -> dict[str, Any]:
    """What has been read since `load`, by complete name, defaults included: the operative configuration."""
    return {name: value for name, value in _by_name(gin_config._OPERATIVE_CONFIG).items() if _written(value)}


def _by_name(config: Any) -> dict[str, Any]:
    named = {}
    for (scope, selector), parameters in config.items():
        if selector == "gin.macro":
            named[scope] = parameters["value"]
        else:
            prefix = f"{scope}/{selector}" if scope else selector
            named |= {f"{prefix}.{name}": value for name, value in parameters.items()}
    return named


def _written(value: Any) -> bool:
    """Whether a gin file can say this value."""
    return _plain(value) is value or isinstance(value, gin_config.ConfigurableReference)


def briefly(bindings: Mapping[str, Any]) -> dict[str, Any]:
    """The same with names as short as gin understands them."""
    return {_brief(name): value for name, value in bindings.items()}


def _brief(name: str) -> str:
    scope, slash, rest = name.rpartition("/")
    selector, dot, parameter = rest.rpartition(".")
    return f"{scope}{slash}{short(selector)}.{parameter}" if dot else name


def as_text(bindings: Mapping[str, Any]) -> str:
    """Bindings as gin statements, one a line."""
    return "".join(f"{name} = {value!r}\n" for name, value in bindings.items())


def names_of(binding: str) -> list[str]:
    """What a single binding binds, as written."""
    found = (s for s, _ in statements(_quoted(binding), f"--set {binding}"))
    return [_written_name(s) for s in found if isinstance(s, config_parser.BindingStatement)]


def _written_name(statement: Any) -> str:
    scope = f"{statement.scope}/" if statement.scope else ""
    return f"{scope}{statement.selector}.{statement.arg_name}".rstrip(".")


def read() -> set[str]:
    """Complete names of all that has been read since `load`."""
    return set(_by_name(gin_config._OPERATIVE_CONFIG))


def check_read(bindings: Sequence[str], known: Collection[str]) -> None:
    """See that what the command line binds is read; without effect it would leave the user with other results.

    Args:
        bindings: as `load` takes them.
        known: what is read, as `read` gives it.

    Raises:
        ConfigError: nothing reads one of them; the message names the nearest parameter that is read.
    """
    for name in (name for binding in bindings for name in names_of(binding)):
        if complete(name) not in known and not complete(name).startswith(READ_HERE):
            raise ConfigError(f"--set {name} has no effect: nothing here reads it. {_nearest_read(name, known)}")


def unread(loaded: Loaded, known: Collection[str]) -> list[str]:
    """Warnings of what the user's own gin files bind and nothing reads; of grids and recipes, which others read."""
    return [
        f"{place}: {name} has no effect: nothing here reads it. {_nearest_read(name, known)}"
        for name, place in loaded.own.items()
        if complete(name) not in known and not complete(name).startswith(READ_ELSEWHERE)
    ]


READ_HERE = "configuration."
READ_ELSEWHERE = ("ablation.", "collection.", READ_HERE)


def _nearest_read(name: str, known: Collection[str]) -> str:
    """Which parameter may have been meant: another part's of the same name, before one whose whole name is similar."""
    brief, parameter = [_brief(other) for other in known if "." in other], name.rpartition(".")[2]
    alike = get_close_matches(parameter, {other.rpartition(".")[2] for other in brief}, n=1, cutoff=0.75)
    same = [other for other in brief if [other.rpartition(".")[2]] == alike]
    by_likeness = sorted(same, key=lambda other: -SequenceMatcher(None, other, name).ratio())
    return f"Did you mean {' or '.join(by_likeness[:3])}?" if same else nearest(name, brief)


def complete(name: str) -> str:
    """A binding's name with the complete name of what it binds, however short it was written."""
    scope, slash, rest = name.rpartition("/")
    selector, dot, parameter = rest.rpartition(".")
    if not dot:  # a macro
        return name
    found = [known for known in _configurables() if known == selector or known.endswith("." + selector)]
    return f"{scope}{slash}{found[0] if len(found) == 1 else selector}.{parameter}"


def rebound(text: str, bindings: Mapping[str, Any]) -> str:
    """An operative text in which some parameters have other values; those that it does not have come last."""
    left = {complete(name): (name, value) for name, value in bindings.items()}
    lines, replaced = [], False
    for line in text.splitlines():
        if not line.startswith(" "):  # a statement begins; lines that continue one are indented
            name = line.partition("=")[0].strip()
            found = left.pop(complete(name), None)
            replaced = found is not None
            line = f"{name} = {found[1]!r}" if found else line
        elif replaced:
            continue
        lines.append(line)
    return "\n".join([*lines, *(f"{name} = {value!r}" for name, value in left.values())]) + "\n"


class _AsText(config_parser.ParserDelegate):  # type: ignore[misc]
    """References and macros as they are written: what they name need not be known."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> str:
        return f"@{scoped_selector}{'()' if evaluate else ''}"

    def macro(self, name: str) -> str:
        return f"%{name}"


def flat(text: str, name: str = "config.gin") -> dict[str, Any]:
    """A gin text's bindings as `configurable.parameter` -> value; references are texts, such as `@gymnasium_task()`.

    Args:
        text: of a gin file.
        name: what messages call it.

    Raises:
        ConfigError: it is no gin text.
    """
    read = (statement for statement, _ in statements(text, name, _AsText()))
    found = (statement for statement in read if isinstance(statement, config_parser.BindingStatement))
    return {_written_name(statement): _plain(statement.value) for statement in found}


def differences(old: str, new: str, ignore: Sequence[str] = (), assumed: Mapping[str, Any] | None = None) -> list[str]:
    """What two gin texts bind differently, one line each.

    Args:
        old, new: the texts.
        ignore: names that do not matter.
        assumed: values of what a text does not name.
    """
    before, after = {**(assumed or {}), **flat(old)}, {**(assumed or {}), **flat(new)}
    names = sorted(set(before) | set(after))
    return [
        f"{name}: {before.get(name, 'unset')!r} before, {after.get(name, 'unset')!r} now"
        for name in names
        if name not in ignore and before.get(name) != after.get(name)
    ]


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, tuple, list, dict, type(None))) else str(value)


def _load_file(path: Path, loaded: Loaded) -> None:
    known = 0
    for statement, place in _of_file(path, loaded.files):
        if len(loaded.files) > known and not loaded.stored:
            _import_from((file.parent for file in loaded.files[known:]), loaded)
            known = len(loaded.files)
        _apply(statement, place, loaded)


def _load_text(text: str, name: str, loaded: Loaded) -> None:
    for statement, place in statements(text, name):
        if isinstance(statement, config_parser.IncludeStatement):
            _load_file(_included(statement.filename, Path("."), place), loaded)
        else:
            _apply(statement, place, loaded)


def _import_from(folders: Iterable[Path], loaded: Loaded) -> None:
    """Have Python look for modules in these folders too, after its own places; dqlab's own have none."""
    for folder in (folder.resolve() for folder in folders):
        if folder not in loaded.folders and folder not in (shipped.resolve() for shipped in SHIPPED):
            loaded.folders.append(folder)
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def _known(folders: Sequence[Path], loaded: Loaded, place: str) -> Iterator[Path]:
    """Of the folders that a file names for modules, those that are looked into: of a run's own file not any."""
    known = {str(Path.cwd()), *sys.path}
    for folder in folders:
        if not loaded.stored or str(folder) in known:
            yield folder
        elif folder.is_dir():
            print(
                f"dqlab: warning: {place} names {folder} for modules: not looked into on the word of that file alone. "
                f'If it is yours: --set "import_path.folders=({str(folder)!r},)", or PYTHONPATH.',
                file=sys.stderr,
            )


def _texts(given: Any, place: str) -> Sequence[str]:
    if not isinstance(given, (tuple, list)) or not all(isinstance(text, str) for text in given):
        raise ConfigError(f"{place}: import_path.folders must be a tuple of folders, such as ('/home/me/lab',).")
    return given


def _has_modules(folder: Path) -> bool:
    return any(folder.glob("*.py")) or any(folder.glob("*/__init__.py"))


def _apply(statement: Any, place: str, loaded: Loaded) -> None:
    if isinstance(statement, config_parser.ImportStatement):
        _import(statement.module, place, loaded)
    elif isinstance(statement, config_parser.BindingStatement):
        _bind(statement, place)
        if not place.startswith("--") and not _ships(place):
            loaded.own[_written_name(statement)] = place
        if statement.arg_name == "folders" and statement.selector.endswith("import_path"):
            folders = list(map(Path, _texts(statement.value, place)))
            _import_from(folders if place.startswith("--") else _known(folders, loaded, place), loaded)


def _ships(place: str) -> bool:
    """Whether it is a place in one of dqlab's own files, by whatever path: in a checkout they are named relatively."""
    return os.path.realpath(place).startswith(_shipped())


@cache
def _shipped() -> tuple[str, ...]:
    return tuple(os.path.realpath(root) + os.sep for root in SHIPPED)


def _of_file(path: Path, files: list[Path]) -> Iterator[tuple[Any, str]]:
    """The statements of a file, with those of what it includes in their place, and where each stands.

    A file is read once, so that files may share a base, or include each other; `files` lists those that were read.
    """
    seen, opened = {file.resolve() for file in files}, []

    def enter(file: Path) -> None:
        if file.resolve() not in seen:
            seen.add(file.resolve())
            files.append(file)
            opened.append((file.parent, statements(text_of(file), str(file))))

    enter(path)
    while opened:
        folder, left = opened[-1]
        statement, place = next(left, (None, ""))
        if statement is None:
            opened.pop()
        elif isinstance(statement, config_parser.IncludeStatement):
            enter(_included(statement.filename, folder, place))
        else:
            yield statement, place


def _included(filename: str, folder: Path, place: str) -> Path:
    try:
        beside = folder / expanded(filename)
        return beside if os.path.isfile(beside) else find(filename)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _import(module: str, place: str, loaded: Loaded) -> None:
    import_plugin(module, place)
    if module not in loaded.imports:
        loaded.imports.append(module)


def import_plugin(module: str, place: str) -> None:
    """Import a module that registers parts.

    Raises:
        ConfigError: it is not there, or fails; the message names `place`.
    """
    try:
        importlib.import_module(module)
    except ConfigError:
        raise
    except ImportError as error:
        hint = " Leave off '.py'." if module.endswith(".py") else ""
        raise ConfigError(
            f"{place}: cannot import '{module}' ({error}). Is it installed, or on PYTHONPATH?{hint}"
        ) from error
    except (Exception, SystemExit) as error:  # a plugin may fail in any way
        raise ConfigError(f"{place}: '{module}' fails when it is imported: {error!r}") from error


def _bind(statement: Any, place: str) -> None:
    if not statement.arg_name:
        macro = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
        gin.bind_parameter((macro, "gin.macro", "value"), statement.value)
        return
    if fault := _fault(statement.selector, statement.arg_name):
        raise ConfigError(f"{place}: {fault}")
    try:
        gin.bind_parameter((statement.scope, statement.selector, statement.arg_name), statement.value)
    except ValueError as error:
        raise ConfigError(f"{place}: {first_line(error)}") from error


def check_binding(name: Any, place: str) -> None:
    """Check that gin could bind `Configurable.parameter`.

    Raises:
        ConfigError: there is no such parameter; the message names `place` and the nearest names.
    """
    if not isinstance(name, str) or not all(name.rpartition(".")):
        raise ConfigError(f"{place}: {name!r} is no parameter's name. Write it as Configurable.parameter.")
    selector, _, parameter = name.rpartition(".")
    if fault := _fault(selector, parameter):
        raise ConfigError(f"{place}: {fault}")


def _fault(selector: str, parameter: str) -> str:
    """What is wrong with a binding's name, with the nearest ones: of the configurable, or of its parameter."""
    registered = _configurables()
    matches = [name for name in registered if name == selector or name.endswith("." + selector)]
    if not matches:
        return unknown_name(selector)
    if len(matches) > 1:
        return f"'{selector}' is ambiguous: {', '.join(sorted(matches))}."
    parameters, takes_any = _parameters(registered[matches[0]])
    if takes_any or parameter in parameters:
        return ""
    others = [f"{short(name)}.{parameter}" for name, item in registered.items() if parameter in _parameters(item)[0]]
    meant = f"Did you mean {' or '.join(others)}?" if 0 < len(others) <= 3 else nearest(parameter, parameters)
    return f"'{selector}' has no parameter '{parameter}'. {meant}"


def _parameters(item: Any) -> tuple[list[str], bool]:
    """The names of what a configurable takes, and whether it takes any other, too."""
    found = {} if inspect.unwrap(item.__init__) is object.__init__ else inspect.signature(item).parameters
    names = [name for name, known in found.items() if known.kind is not known.VAR_POSITIONAL]
    return names, any(known.kind is known.VAR_KEYWORD for known in found.values())


def _configurables() -> dict[str, Any]:
    """Complete selector -> function or class, of everything gin knows."""
    return {selector: entry.wrapped for selector, entry in configurables().items()}


def _check_macros() -> None:
    """Every `%macro` that is used must have a value."""
    try:
        gin.finalize()
    except ValueError as error:
        macro = re.search(r"'(.*)/gin.macro'", str(error))
        text = str(error).splitlines()[0]
        raise ConfigError(f"%{macro[1]} is used but has no value: add {macro[1]} = ..." if macro else text) from error


def _quoted(binding: str) -> str:
    """Let `--set task=walker2d-medium-v2` do without inner quotes, which the shell would eat."""
    name, separator, value = binding.partition("=")
    value = value.strip()
    if not separator or not re.fullmatch(r"[A-Za-z_][\w./:+~-]*", value) or value in ("True", "False", "None"):
        return binding
    return f"{name}='{value}'"
