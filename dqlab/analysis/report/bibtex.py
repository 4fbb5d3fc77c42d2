"""BibTeX entries of what a grid used: the works behind dqlab, and those that its components cite."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dqlab import __version__
from dqlab.analysis.results import GridResults

ALWAYS = (
    "wang2023diffusion",
    "agarwal2021deep",
    "holm1979simple",
    "dodge2019show",
    "jackson2025clean",
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
    """One work: its key, its BibTeX text, and its fields."""

    key: str
    text: str
    fields: Mapping[str, str]

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
    key = text.split("{", 1)[1].split(",", 1)[0]
    return BibEntry(key, text, dict(re.findall(r"^  (\w+) = \{(.*)\},$", text, re.MULTILINE)))


def strip_braces(text: str) -> str:
    r"""BibTeX's text without braces and accents: `Clevert` of `{Clevert}`, `e` of `{\\'e}`."""
    return re.sub(r"\{\\(.)(\w?)\}", lambda found: found[2] or found[1], text).replace("{", "").replace("}", "")


def cited_works(results: GridResults) -> list[BibEntry]:
    """What a paper with these results would cite, in the order of references.bib."""
    keys = {*ALWAYS, *(key for component in results.components for key in component.cites)}
    return [entry for entry in load_bibliography().values() if entry.key in keys]


def uncited_sources(results: GridResults) -> list[str]:
    """`name: source` of the components whose works references.bib does not have (a plugin's)."""
    known = load_bibliography().keys()
    lacking = (each for each in results.components if YEAR.search(each.source) and not known & set(each.cites))
    return [f"{each.name}: {each.source}" for each in lacking]


def bibtex_file(results: GridResults) -> str:
    """The entries as a .bib file; what has none is named in a comment."""
    return "\n".join(_blocks(cited_works(results), uncited_sources(results)))


def _blocks(entries: Sequence[BibEntry], lacking: Sequence[str]) -> Iterator[str]:
    yield DQLAB.format(version=__version__)
    yield from (entry.text + "\n" for entry in entries)
    yield from (f"% No entry is known for {' '.join(line.split())}" for line in lacking)
