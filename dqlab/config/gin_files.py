"""gin, strictly: statements are applied one by one; every mistake is one message with file, line and nearest name."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import tokenize
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_config
from gin import config_parser

from dqlab.config import fields, gin_state
from dqlab.config.gin_state import complete_name, configurables, matching_selectors, plain_value, shortest_name
from dqlab.config.identity import RETIRED
from dqlab.config.registry import configurable, fill_registries, unknown_name
from dqlab.errors import PACKAGE, ConfigError, first_line, nearest, odd_character
from dqlab.files import expanded, look_here_for, read_user_text

READ_HERE = "configuration."
CONFIGURABLE = ("dqlab.envs.custom", "dqlab.runs.experiment", "dqlab.ablation.grid", "dqlab.tools.collect.recipe")
"""Importing these registers what gin files can set beside components."""
SHIPPED = [root / folder for root in (PACKAGE, PACKAGE.parent) for folder in ("gin", "ablations")]
"""Where dqlab's own gin files lie: in an installed package, and in a checkout."""


@configurable("configuration")
def import_path(folders: tuple[str, ...] = ()) -> None:
    """Where modules of the user's are found, beside Python's own places: `load_gin` reads it, wherever it is bound.

    Absolute paths. A gin file's own folder need not be named; a run's config.gin names those of its gin files.
    """


@dataclass
class LoadedConfig:
    """What was read."""

    files: list[Path] = field(default_factory=list)  # gin files, in order
    imports: list[str] = field(default_factory=list)  # modules, imported by gin files or as plugins
    own: dict[str, str] = field(default_factory=dict)  # name -> file and line of what others than dqlab's files bind
    folders: list[Path] = field(default_factory=list)  # of the user's modules: gin files' own, and `import_path`'s
    stored: bool = False  # whether a run has stored what is read

    def header(self) -> str:
        """The gin statements that come first, so that the others can be read from anywhere."""
        folders = tuple(str(each) for each in self.folders if any(chain(each.glob("*.py"), each.glob("*/__init__.py"))))
        found = f"import_path.folders = {folders!r}\n" if folders else ""
        return found + "".join(f"import {module}\n" for module in self.imports)


def load_gin(
    files: Sequence[str | Path], bindings: Sequence[str] = (), imports: Sequence[str] = (), stored: bool = False
) -> LoadedConfig:
    """Replace the current configuration by gin files, then single bindings.

    Args:
        files: gin files, later ones overriding earlier ones.
        bindings: `Configurable.parameter=value` strings, overriding the files.
        imports: modules (plugins) to import first.
        stored: whether the files are a run's. Its folder may be somebody else's: nothing is imported from it, nor from
            folders that it names for modules, but where Python looks anyway or `import_path.folders` is bound.

    Raises:
        ConfigError: a file is missing; a line cannot be parsed; a configurable, parameter or module is unknown.
    """
    fill_registries()
    for module in CONFIGURABLE:
        importlib.import_module(module)
    gin.clear_config()
    fields.PLACES.clear()
    loaded, found = LoadedConfig(stored=stored), [find_gin_file(path) for path in files]
    for binding in (binding for binding in bindings if binding.startswith("import_path.")):
        _apply(_with_included(binding, f"--set {binding}", loaded), loaded)
    if not stored:
        _import_from((path.parent for path in found), loaded)
    for module in imports:
        _import(module, "--plugin", loaded)
    for path in found:
        _apply(_of_file(path, loaded, again=True), loaded)
    for binding in bindings:
        _apply(_with_included(quote_value(binding), f"--set {binding}", loaded), loaded)
    try:
        gin.finalize()
    except ValueError as error:  # a macro without a value
        macro = re.search(r"'(.*)/gin.macro'", str(error))
        text = str(error).splitlines()[0]
        raise ConfigError(f"%{macro[1]} is used but has no value: add {macro[1]} = ..." if macro else text) from error
    return loaded


def find_gin_file(path: str | Path) -> Path:
    """A gin file where it is named, or among those that ship with dqlab; its `.gin` may be left off."""
    path = expanded(path)
    for named in (path, path.with_name(f"{path.name}.gin")) if path.name else (path,):
        beside = [folder.parent for folder in SHIPPED if named.parts[:1] == (folder.name,)]
        for candidate in (named, *(folder / named for folder in (*beside, *SHIPPED))):
            if os.path.isfile(candidate):  # False, too, for what no file can be called
                return candidate
    if os.path.isdir(path):
        raise ConfigError(f"'{path}' is a folder. Name a gin file in it.")
    here = [str(other) for other in path.parent.glob("*.gin")]
    shipped = [f"{folder.name}/{other.name}" for folder in SHIPPED for other in folder.glob("*.gin")]
    raise ConfigError(f"There is no gin file '{path}'. {nearest(str(path), {*here, *shipped})}")


def bindings_in_file(path: str | Path) -> dict[str, Any]:
    """What a gin file and those that it includes bind, as written, later ones overriding; nothing is changed."""
    read = _of_file(find_gin_file(path), LoadedConfig(stored=True))
    return {written_name(s): s.value for s, _ in read if isinstance(s, config_parser.BindingStatement)}


def operative_text(loaded: LoadedConfig) -> str:
    """The operative configuration as a gin file that reproduces what has been built since `load_gin`."""
    return loaded.header() + str(gin.operative_config_str(max_line_length=120))


def check_parameters_read(bindings: Sequence[str], known: Collection[str]) -> None:
    """A ConfigError where the command line binds what is none of the `known`: the results would be other ones."""
    for name in (name for binding in bindings for name in bound_names(binding)):
        if said := gin_state.without_effect(name, known, READ_HERE):
            raise ConfigError(f"--set {said}")


def unread_warnings(loaded: LoadedConfig, known: Collection[str]) -> list[str]:
    """Warnings of what the user's own gin files bind and nothing reads; of grids and recipes, which others read."""
    said = {name: gin_state.without_effect(name, known, ("ablation.", "collection.", READ_HERE)) for name in loaded.own}
    return [f"{place}: {said[name]}" for name, place in loaded.own.items() if said[name]]


def format_bindings(bindings: Mapping[str, Any]) -> str:
    """Bindings as gin statements, one a line."""
    return "".join(f"{name} = {value!r}\n" for name, value in bindings.items())


def bound_names(binding: str) -> list[str]:
    """What a single binding binds, as written."""
    found = parse_statements(quote_value(binding), f"--set {binding}")
    return [written_name(s) for s, _ in found if isinstance(s, config_parser.BindingStatement)]


def written_name(statement: Any) -> str:
    """The name that a statement binds, as its author wrote it."""
    scope = f"{statement.scope}/" if statement.scope else ""
    return f"{scope}{statement.selector}.{statement.arg_name}".rstrip(".")


def rebind_text(text: str, bindings: Mapping[str, Any]) -> str:
    """An operative text in which some parameters have other values; those that it does not have come last."""
    left = {complete_name(name): (name, value) for name, value in bindings.items()}
    lines, replaced = [], False
    for line in text.splitlines():
        if not line.startswith(" "):  # a statement begins; lines that continue one are indented
            name = line.partition("=")[0].strip()
            found = left.pop(complete_name(name), None)
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


def parse_bindings(text: str, name: str = "config.gin") -> dict[str, Any]:
    """A gin text's bindings, references as texts such as `@vp()`; where it is none, a ConfigError about `name`."""
    found = parse_statements(text, name, _AsText())
    return {written_name(s): plain_value(s.value) for s, _ in found if isinstance(s, config_parser.BindingStatement)}


def quote_value(binding: str) -> str:
    """Let `--set task=walker2d-medium-v2` do without inner quotes, which the shell would eat."""
    name, separator, value = binding.partition("=")
    value = value.strip()
    if not separator or not re.fullmatch(r"[A-Za-z_][\w./:+~-]*", value) or value in ("True", "False", "None"):
        return binding
    return f"{name}='{value}'"


def parse_statements(text: str, name: str, delegate: Any = None) -> Iterator[tuple[Any, str]]:
    """A text's statements, and where each stands: `name` (with the line, unless it begins with `--`); a ConfigError."""
    parser, numbered = None, "{}" if name.startswith("--") else "{}:{}"
    try:
        parser = config_parser.ConfigParser(text, delegate or gin_config.ParserDelegate())
        for statement in parser:
            yield statement, numbered.format(name, statement.location.line_num)
    except Exception as error:  # gin lets through what Python's tokenizer and parser raise, MemoryError included
        line, lines = _line_of(error, parser), text.split("\n")
        odd = odd_character(lines[min(line, len(lines)) - 1])
        raise ConfigError(f"{numbered.format(name, line)}: {_unparsed(error)} {odd}".rstrip()) from error


def _line_of(error: Exception, parser: Any) -> int:
    """The line that gin's error speaks of: in its location, in its message, or where the parser stands."""
    location = error.args[1] if len(error.args) > 1 else None
    if isinstance(error, tokenize.TokenError) and location:
        return int(location[0])
    named = re.search(r"In bindings string line (\d+)", str(error))
    known = getattr(location, "line_num", None) or (named and named[1])
    return int(known or (parser.current_token.start[0] if parser else 1))


def _unparsed(error: Exception) -> str:
    """gin's complaint about a statement; an unknown reference gets the nearest names."""
    if isinstance(error, (RecursionError, MemoryError)):
        return "brackets are nested too deeply to be read."
    if unknown := re.search(r"reference '@([\w./]+)", str(error)):
        return unknown_name(unknown[1], "@")
    text = str(error.args[0] if error.args else error).strip().partition("\n")[0]
    fault = "the quotes that open here are never closed" if "EOF in multi-line string" in text else text.rstrip(".")
    if token := re.search(r"Failed to parse token '(.*)'", str(error)):
        fault = f"cannot read the value {token[1]}"
    return f"{fault or first_line(error)}. Write Name.parameter = value, one a line, strings in quotes."


def _import_from(folders: Iterable[Path], loaded: LoadedConfig) -> None:
    """Have Python look for modules in these folders too, after its own places."""
    for folder in (folder.resolve() for folder in folders):
        if folder not in loaded.folders:
            loaded.folders.append(folder)
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def _add_folders(given: Any, place: str, loaded: LoadedConfig) -> None:
    """Look for modules in the folders that `import_path.folders` names; a run's own file is not taken at its word."""
    if not isinstance(given, (tuple, list)) or not all(isinstance(text, str) for text in given):
        raise ConfigError(f"{place}: import_path.folders must be a tuple of folders, such as ('/home/me/lab',).")
    known = {str(Path.cwd()), *sys.path}
    for folder in map(Path, given):
        if not loaded.stored or place.startswith("--") or str(folder) in known:
            _import_from([folder], loaded)
        elif folder.is_dir():
            advice = f'If it is yours: --set "import_path.folders=({str(folder)!r},)", or PYTHONPATH.'
            said = f"{place} names {folder} for modules: not looked into on the word of that file alone. {advice}"
            print(f"dqlab: warning: {said}", file=sys.stderr)


def _apply(statements: Iterable[tuple[Any, str]], loaded: LoadedConfig) -> None:
    shipped = tuple(os.path.realpath(root) + os.sep for root in SHIPPED)  # in a checkout files are named relatively
    for statement, place in statements:
        if isinstance(statement, config_parser.ImportStatement):
            _import(statement.module, place, loaded)
        if not isinstance(statement, config_parser.BindingStatement):
            continue
        name, typed = written_name(statement), place.startswith("--")
        if name.endswith(RETIRED) and not typed:
            continue
        if statement.arg_name:
            check_binding(f"{statement.selector}.{statement.arg_name}", place)
            bound = (statement.scope, statement.selector, statement.arg_name)
        else:
            bound = (name, "gin.macro", "value")
        try:
            gin.bind_parameter(bound, statement.value)
        except ValueError as error:
            raise ConfigError(f"{place}: {first_line(error)}") from error
        fields.PLACES[complete_name(name)] = statement.value, "--set " if typed else f"{place}: "
        if not typed and not os.path.realpath(place).startswith(shipped):
            loaded.own[name] = place
        if statement.arg_name == "folders" and statement.selector.endswith("import_path"):
            _add_folders(statement.value, place, loaded)


def _of_file(path: Path, loaded: LoadedConfig, again: bool = False) -> Iterator[tuple[Any, str]]:
    """The statements of a file, which is included once, so that files may share a base, or include each other."""
    known = path.resolve() in (file.resolve() for file in loaded.files)
    if known and not again:
        return
    if not known:
        loaded.files.append(path)
    if not loaded.stored:
        _import_from([path.parent], loaded)
    try:
        text = read_user_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}") from error
    yield from _with_included(text, str(path), loaded, path.parent)


def _with_included(text: str, name: str, loaded: LoadedConfig, folder: Path = Path(".")) -> Iterator[tuple[Any, str]]:
    """A text's statements, with those of what it includes in their place, and where each stands."""
    for statement, place in parse_statements(text, name):
        if not isinstance(statement, config_parser.IncludeStatement):
            yield statement, place
            continue
        try:
            beside = folder / expanded(statement.filename)
            included = beside if os.path.isfile(beside) else find_gin_file(statement.filename)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
        yield from _of_file(included, loaded)


def _import(module: str, place: str, loaded: LoadedConfig) -> None:
    import_plugin(module, place)
    if module not in loaded.imports:
        loaded.imports.append(module)


def import_plugin(module: str, place: str) -> None:
    """Import a module that registers components; a ConfigError that names `place` where it is not there, or fails."""
    if "/" in module or module.startswith("."):
        stem = Path(module).stem
        raise ConfigError(f"{place}: '{module}' is a path. Name the module, '{stem}', with its folder on PYTHONPATH.")
    look_here_for(module)
    try:
        importlib.import_module(module)
    except ConfigError:
        raise
    except ImportError as error:
        hint = "Leave off '.py'." if module.endswith(".py") else "Is it installed, or on PYTHONPATH?"
        raise ConfigError(f"{place}: cannot import '{module}' ({error}). {hint}") from error
    except (Exception, SystemExit) as error:  # a plugin may fail in any way
        raise ConfigError(f"{place}: '{module}' fails when it is imported: {error!r}") from error


def check_binding(name: Any, place: str) -> None:
    """Raise a ConfigError with the place and the nearest names, unless gin could bind `Configurable.parameter`."""
    if not isinstance(name, str) or not all(name.rpartition(".")):
        raise ConfigError(f"{place}: {name!r} is no parameter's name. Write it as Configurable.parameter.")
    (selector, _, parameter), registered = name.rpartition("."), configurables()
    matches = matching_selectors(selector)
    if not matches:
        raise ConfigError(f"{place}: {unknown_name(selector)}")
    if len(matches) > 1:
        raise ConfigError(f"{place}: '{selector}' is ambiguous: {', '.join(sorted(matches))}.")
    parameters, takes_any = _parameters(registered[matches[0]])
    if takes_any or parameter in parameters:
        return
    having = [shortest_name(name) for name, item in registered.items() if parameter in _parameters(item)[0]]
    others = " or ".join(f"{name}.{parameter}" for name in having)
    own = get_close_matches(parameter, parameters, cutoff=0.8)  # as `seed` is of `seeds`
    meant = f"Did you mean {others}?" if 0 < len(having) <= 3 and not own else nearest(parameter, parameters)
    raise ConfigError(f"{place}: '{selector}' has no parameter '{parameter}'. {meant}")


def _parameters(item: Any) -> tuple[list[str], bool]:
    """The names of what a configurable takes, and whether it takes any other, too."""
    found = {} if inspect.unwrap(item.__init__) is object.__init__ else inspect.signature(item).parameters
    names = [name for name, known in found.items() if known.kind is not known.VAR_POSITIONAL]
    return names, any(known.kind is known.VAR_KEYWORD for known in found.values())
