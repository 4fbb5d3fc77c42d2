"""BibTeX entries of what a grid used: the works behind dqlab, and those that the parts in use name as their source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from dqlab import __version__
from dqlab.analysis.results import GridResults
from dqlab.config.catalogue import gin_parameters
from dqlab.config.gin_syntax import parse_bindings
from dqlab.config.registry import Registry, RegistryEntry
from dqlab.runs import Experiment

Bound = Mapping[str, set[Any]]
"""`Configurable.parameter` -> every value that the file or one of the axes' points gives it."""


def parts_used(results: GridResults) -> list[RegistryEntry[Any]]:
    """The parts that at least one cell uses, algorithms first; none of a gin text that cannot be read."""
    bound = _bound(results.gin)
    named = {str(result.summary["algorithm"]) for result in results.results if "algorithm" in result.summary}
    bound["Experiment.algorithm"] = bound.get("Experiment.algorithm", set()) | named or {Experiment.algorithm}
    used: dict[tuple[str, str], RegistryEntry[Any]] = {}
    _follow("Experiment", {"algorithm": Experiment.algorithm, "physics": Experiment.physics}, bound, used)
    _follow("Grid", {"engine": ""}, bound, used)
    return list(used.values())


def _follow(
    owner: str, parameters: Mapping[str, Any], bound: Bound, used: dict[tuple[str, str], RegistryEntry[Any]]
) -> None:
    """Add the parts that the parameters of a configurable choose, and theirs in turn."""
    for registry, part in _chosen(owner, parameters, bound):
        if (registry.kind, part.name) not in used:
            used[registry.kind, part.name] = part
            _follow(part.gin_name, gin_parameters(registry, part), bound, used)


def _chosen(
    owner: str, parameters: Mapping[str, Any], bound: Bound
) -> Iterator[tuple[Registry[Any], RegistryEntry[Any]]]:
    for parameter, default in parameters.items():
        values = bound.get(f"{owner}.{parameter}", {default} if isinstance(default, str) else set())
        for registry in _chosen_by(parameter):
            yield from ((registry, registry.entry(str(value))) for value in values if value in registry)


def _chosen_by(parameter: str) -> list[Registry[Any]]:
    """Registries whose parts are chosen by a parameter of that name."""
    return [each for each in list(Registry.kinds.values()) if each.chosen_by.rpartition(".")[2] == parameter]


def _bound(text: str) -> dict[str, set[Any]]:
    """Values of the file; a parameter that an axis sets has those of the axis, too."""
    try:
        flat = parse_bindings(text)
    except (SyntaxError, ValueError):
        return {}
    bound: dict[str, set[Any]] = {}
    for name, value in [*flat.items(), *_of_axes(flat.get("Grid.axes", {}))]:
        owner, _, parameter = name.rpartition("/")[2].rpartition(".")
        if isinstance(value, str):
            bound.setdefault(f"{owner.rpartition('.')[2]}.{parameter}", set()).add(value)
    return bound


def _of_axes(axes: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Every binding of every point."""
    for axis in axes.values():
        for name, value in axis.items():
            listed = {name: value} if not isinstance(value, Mapping) else value
            for parameter, values in listed.items():
                yield from ((parameter, each) for each in (values if isinstance(values, (tuple, list)) else [values]))


ALWAYS = (
    "wang2023diffusion",
    "agarwal2021deep",
    "holm1979simple",
    "fu2020d4rl",
    "todorov2012mujoco",
    "paszke2019pytorch",
    "towers2024gymnasium",
    "kingma2015adam",
)
DQLAB = """@misc{{dqlab,
  author = {{{{The dqlab authors}}}},
  title = {{{{dqlab}}: Reproduce, Ablate and Extend {{Diffusion-QL}}}},
  note = {{Version {version}}},
}}
"""
YEAR = re.compile(r"\b(19|20)\d\d\b")


@dataclass(frozen=True)
class BibEntry:
    """One work: its key, its BibTeX text, its fields, and a pattern of how parts' sources name it."""

    key: str
    text: str
    fields: Mapping[str, str]
    said: re.Pattern[str]

    @property
    def line(self) -> str:
        """Authors, title and year, for people."""
        names = [name.split(",")[0] for name in strip_braces(self.fields.get("author", "")).split(" and ") if name]
        who = f"{names[0]} et al." if len(names) > 2 else " & ".join(names)
        where = self.fields.get("booktitle") or self.fields.get("journal") or ""
        eprint = f"arXiv:{self.fields['eprint']}" if "eprint" in self.fields else self.fields.get("howpublished", "")
        parts = (who, strip_braces(self.fields["title"]), strip_braces(where), self.fields["year"], eprint)
        return ". ".join(part.rstrip(".") for part in parts if part) + "."


@cache
def load_bibliography() -> Mapping[str, BibEntry]:
    """Every entry of references.bib, by key."""
    text = files(__package__).joinpath("references.bib").read_text(encoding="utf-8")
    entries = (_entry(each) for each in re.findall(r"^@\w+\{.*?^\}$", text, re.DOTALL | re.MULTILINE))
    return {entry.key: entry for entry in entries}


def _entry(text: str) -> BibEntry:
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", text, re.MULTILINE))
    written = re.sub(r"^  said = .*\n", "", text, flags=re.MULTILINE)
    key = text.split("{", 1)[1].split(",", 1)[0]
    return BibEntry(key, written, fields, re.compile(fields.pop("said")))


def strip_braces(text: str) -> str:
    r"""BibTeX's text without braces and accents: `Clevert` of `{Clevert}`, `e` of `{\\'e}`."""
    return re.sub(r"\{\\(.)(\w?)\}", lambda found: found[2] or found[1], text).replace("{", "").replace("}", "")


def cited_keys(source: str) -> list[str]:
    """Keys of the works that a part's source names."""
    return [entry.key for entry in load_bibliography().values() if entry.said.search(source)]


def cited_works(results: GridResults) -> list[BibEntry]:
    """What a paper with these results would cite, in the order of references.bib."""
    keys = {*ALWAYS, *(key for part in parts_used(results) for key in cited_keys(part.source))}
    return [entry for entry in load_bibliography().values() if entry.key in keys]


def uncited_sources(results: GridResults) -> list[str]:
    """`name: source` of the parts in use whose work references.bib does not have (a plugin's)."""
    parts = [part for part in parts_used(results) if YEAR.search(part.source) and not cited_keys(part.source)]
    return [f"{part.name}: {part.source}" for part in parts]


def bibtex_file(results: GridResults) -> str:
    """The entries as a .bib file; what has none is named in a comment."""
    return "\n".join(_blocks(cited_works(results), uncited_sources(results)))


def _blocks(entries: Sequence[BibEntry], lacking: Sequence[str]) -> Iterator[str]:
    yield DQLAB.format(version=__version__)
    yield from (entry.text + "\n" for entry in entries)
    yield from (f"% No entry is known for {' '.join(line.split())}" for line in lacking)
