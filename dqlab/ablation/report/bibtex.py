"""BibTeX entries of what a grid used: the works behind dqlab, and those that the parts in use name as their source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dqlab import __version__
from dqlab.ablation.report.parts_used import parts_used
from dqlab.ablation.results import GridResults

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
class Entry:
    """One work: its key, its BibTeX text, its fields, and a pattern of how parts' sources name it."""

    key: str
    text: str
    fields: Mapping[str, str]
    said: re.Pattern[str]

    @property
    def line(self) -> str:
        """Authors, title and year, for people."""
        names = [name.split(",")[0] for name in bare(self.fields.get("author", "")).split(" and ") if name]
        who = f"{names[0]} et al." if len(names) > 2 else " & ".join(names)
        where = self.fields.get("booktitle") or self.fields.get("journal") or ""
        eprint = f"arXiv:{self.fields['eprint']}" if "eprint" in self.fields else self.fields.get("howpublished", "")
        parts = (who, bare(self.fields["title"]), bare(where), self.fields["year"], eprint)
        return ". ".join(part.rstrip(".") for part in parts if part) + "."


@cache
def library() -> Mapping[str, Entry]:
    """Every entry of references.bib, by key."""
    text = files(__package__).joinpath("references.bib").read_text(encoding="utf-8")
    entries = (_entry(each) for each in re.findall(r"^@\w+\{.*?^\}$", text, re.DOTALL | re.MULTILINE))
    return {entry.key: entry for entry in entries}


def _entry(text: str) -> Entry:
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", text, re.MULTILINE))
    written = re.sub(r"^  said = .*\n", "", text, flags=re.MULTILINE)
    key = text.split("{", 1)[1].split(",", 1)[0]
    return Entry(key, written, fields, re.compile(fields.pop("said")))


def bare(text: str) -> str:
    r"""BibTeX's text without braces and accents: `Clevert` of `{Clevert}`, `e` of `{\\'e}`."""
    return re.sub(r"\{\\(.)(\w?)\}", lambda found: found[2] or found[1], text).replace("{", "").replace("}", "")


def cited(source: str) -> list[str]:
    """Keys of the works that a part's source names."""
    return [entry.key for entry in library().values() if entry.said.search(source)]


def works(results: GridResults) -> list[Entry]:
    """What a paper with these results would cite, in the order of references.bib."""
    keys = {*ALWAYS, *(key for part in parts_used(results) for key in cited(part.source))}
    return [entry for entry in library().values() if entry.key in keys]


def uncited(results: GridResults) -> list[str]:
    """`name: source` of the parts in use whose work references.bib does not have (a plugin's)."""
    parts = [part for part in parts_used(results) if YEAR.search(part.source) and not cited(part.source)]
    return [f"{part.name}: {part.source}" for part in parts]


def bibtex(results: GridResults) -> str:
    """The entries as a .bib file; what has none is named in a comment."""
    return "\n".join(_blocks(works(results), uncited(results)))


def _blocks(entries: Sequence[Entry], lacking: Sequence[str]) -> Iterator[str]:
    yield DQLAB.format(version=__version__)
    yield from (entry.text + "\n" for entry in entries)
    yield from (f"% No entry is known for {' '.join(line.split())}" for line in lacking)
