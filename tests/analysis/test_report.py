"""Reports of grids: everything is written, agrees with the analysis, reads well, and replaces an older one at once."""

from __future__ import annotations

import csv
import html
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from made_grids import TASKS, made_grid

from dqlab import files as files_module
from dqlab.ablation.planning import ConfigResolver
from dqlab.ablation.report import components_used
from dqlab.analysis.report import figures, write
from dqlab.analysis.report.figures import choose_labels, lines_of, numeric_axis
from dqlab.analysis.report.tables import escape_latex
from dqlab.analysis.report.write import (
    FRAMES,
    bibtex_file,
    load_bibliography,
    scores_csv,
    summary_paragraph,
    write_report,
)
from dqlab.analysis.results import FAILED, CellStatus, GridResults, Report
from dqlab.analysis.statistics import analyse
from dqlab.config.identity import short_name
from dqlab.config.registry import Registry, RegistryEntry, registry_of
from dqlab.errors import RunError
from dqlab.printing import enumerate_names, format_points
from dqlab.tracking.selection_rules import SELECTION_RULES, rule_name

QUICK = Report(reps=100)
REASON = 'CUDA error: <out of memory> & "things", 100% of step_5'
LABELS = {"N=2": '<b>"a" & b_1</b>, 50%', "N=5": "base, ~#{}\\ it's η=½ $x$ 中", "N=10": "Diffusion-QL, 5 steps"}
SHEETS = ["scores.csv", "aggregates.csv", "checkpoints.csv", "tuning.csv"]
FILES = ["index.html", *SHEETS, "results.json", "tables.tex", "references.bib"]
FIGURES = ["iqm", "score_by_value", "learning_curves", "tuning", "profiles"]
HO = ("ho2020denoising",)
VOID = {"meta", "img", "br", "hr", "link", "input"}


def renamed(grid: GridResults) -> GridResults:
    """The same grid with labels that every format has to escape."""
    results = tuple(replace(r, cell=replace(r.cell, label=LABELS[r.cell.label])) for r in grid.results)
    return replace(grid, base=LABELS[grid.base], labels=tuple(map(LABELS.__getitem__, grid.labels)), results=results)


def with_gaps(grid: GridResults) -> GridResults:
    """One cell failed, one is pending."""
    (failed, pending), results = grid.results[:2], grid.results[2:]
    return replace(
        grid,
        results=results,
        failures=(CellStatus(failed.cell, FAILED, "diverged", REASON),),
        pending=(CellStatus(pending.cell),),
    )


GRID = with_gaps(renamed(made_grid(seeds=3)))
SETTINGS = Report(
    reps=100, reference={LABELS["N=5"]: {TASKS[0]: (110.1, 0.3), TASKS[1]: (111.3,)}}, reference_source="a paper"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid") / "report"
    written = write_report(GRID, SETTINGS, folder)
    assert [str(path.relative_to(folder)) for path in written] == FILES + [
        f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")
    ]
    assert sorted(written) == sorted(path for path in folder.rglob("*") if path.is_file())
    return folder


def text_of(report: Path) -> str:
    """What a page says; whatever it opens it closes."""
    page = re.sub(r"<(style|script)>.*?</\1>", "", (report / "index.html").read_text(), flags=re.DOTALL)
    opened, closed = (Counter(re.findall(rf"<{slash}(\w+)", page)) for slash in ("", "/"))
    assert opened - closed == Counter({tag: opened[tag] for tag in VOID & set(opened)})
    assert not closed - opened
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def test_the_page_is_whole_and_needs_nothing_from_outside(report: Path) -> None:
    page, text = (report / "index.html").read_text(), text_of(report)
    links = re.findall(r'<[^>]* (?:src|href|srcset|data|action)="([^"]*)"', page)
    assert links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|<[^>]* on\w+=", page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(set(ids)) == len(ids)
    said = (*GRID.labels, *TASKS, *map(rule_name, SELECTION_RULES), REASON, GRID.gin.strip(), "not D4RL", "a paper")
    assert not [each for each in (*said, "2.13.0") if each not in text]


def test_no_scores_without_their_rule_and_caveat(report: Path) -> None:
    captions = re.findall(r"<caption>(.*?)</caption>", (report / "index.html").read_text(), re.DOTALL)
    scored = [caption for caption in captions if "ormalised scores" in caption]
    assert len(scored) >= 10
    assert all("not D4RL" in caption for caption in scored)
    assert len(captions) - len(scored) == 2, "only failures and pending cells have no scores"
    head = re.findall(r"<thead>.*?</thead>", (report / "index.html").read_text())[0]
    for rule in SETTINGS.rules:
        assert head.count(f"<small>{rule_name(rule)}</small>") == 2


def test_the_sections_come_in_the_readers_order(report: Path) -> None:
    wanted = [
        "aggregate",
        "values",
        "tasks",
        "curves",
        "checkpoints",
        "tuning",
        "profiles",
        "comparisons",
        "references",
    ]
    found = re.findall(r'<section id="([\w-]+)"', (report / "index.html").read_text())
    assert found == [*wanted, "open", "all-rules", "gin", "made", "cite"]


def test_the_figures_are_images(report: Path) -> None:
    for name in FIGURES:
        png, pdf = ((report / "figures" / f"{name}.{kind}").read_bytes() for kind in ("png", "pdf"))
        width, height = struct.unpack(">II", png[16:24])
        assert (600 <= width <= 1600, 200 <= height <= 1600, len(png) > 8000) == (True, True, True)
        assert (png[:8], pdf[:5], b"%%EOF" in pdf[-10:]) == (b"\x89PNG\r\n\x1a\n", b"%PDF-", True)


def test_the_sheet_of_cells_has_them_all(report: Path) -> None:
    rows = list(csv.DictReader((report / "scores.csv").open(newline="")))
    assert len(rows) == 3 * 2 * 3
    assert Counter(row["state"] for row in rows) == {"finished": 16, "diverged": 1, "pending": 1}
    results = {result.cell.id: result for result in GRID.results}
    for row in rows:
        if row["state"] == "finished":
            result = results[row["id"]]
            assert [float(row[f"score_{rule}"]) for rule in SELECTION_RULES] == [
                result.score(rule) for rule in SELECTION_RULES
            ]
            known = (result.cell.label, result.cell.task, str(result.cell.seed), "5000", "not D4RL")
            assert tuple(row[name] for name in ("label", "task", "seed", "steps", "caveat")) == known
            assert row["N"] == result.cell.points["N"]
    failed = next(row for row in rows if row["state"] == "diverged")
    assert (failed["reason"], failed["score_last"]) == (REASON, "")


def test_an_axis_may_be_called_as_a_column_is() -> None:
    grid = made_grid(seeds=1)
    cells = [replace(r, cell=replace(r.cell, points={"task": r.cell.points["N"]})) for r in grid.results]
    text = scores_csv(replace(grid, axes={"task": grid.axes["N"]}, results=tuple(cells)))
    row = next(csv.DictReader(text.splitlines()))
    assert (row["task_axis"], row["task"]) == ("2", TASKS[0])


def test_the_data_are_the_analysis(report: Path) -> None:
    analysis = analyse(GRID, SETTINGS)
    known = json.loads((report / "results.json").read_text())
    for name in FRAMES:
        frame = getattr(analysis, name)
        wanted = frame.reset_index() if frame.index.names != [None] else frame
        text = json.dumps(wanted.to_dict("split", index=False)).replace("NaN", "null")
        assert known["analysis"][name] == json.loads(text)
    assert known["grid"]["labels"] == list(GRID.labels)
    assert known["facts"] == json.loads(json.dumps(GRID.facts))
    assert Counter(cell["state"] for cell in known["cells"]) == {"finished": 16, "diverged": 1, "pending": 1}
    rows = {(row["rule"], row["label"]): row for row in csv.DictReader((report / "aggregates.csv").open(newline=""))}
    assert len(rows) == len(SELECTION_RULES) * 3
    for (rule, label), row in rows.items():
        iqm, tests = analysis.figure(rule, "iqm").loc[label], analysis.compared(rule)
        wanted = ["" if math.isnan(each) else str(each) for each in (iqm.point, iqm.low, iqm.high)]
        assert [row["iqm"], row["iqm_low"], row["iqm_high"]] == wanted
        assert row["corrected"] == (str(tests.corrected[label]) if label in tests.index else "")


def test_latex_prints_every_text_as_it_is() -> None:
    assert escape_latex("50% of a_1 & #2 {x} $y$ ~^\\") == (
        r"50\% of a\_1 \& \#2 \{x\} \$y\$ \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert escape_latex('<b> |x| "q"') == r"\textless{}b\textgreater{} \textbar{}x\textbar{} ''q''"
    assert escape_latex("η = ½\n\ttwo") == "η = ½ two"
    assert escape_latex("[1] \u22122.5 \u00b1 1") == r"{}[1] $-$2.5 $\pm$ 1"


def test_the_tables_are_booktabs(report: Path) -> None:
    text = (report / "tables.tex").read_text()
    tables = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, re.DOTALL)
    assert len(tables) == 6 + 2 * len(SETTINGS.rules) + 1
    assert len(set(re.findall(r"\\label\{.*\}", text))) == len(tables)
    for table in tables:
        assert all(table.count(rule) == 1 for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption"))
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", table)[1])  # type: ignore[index]
        rows = [line for line in table.splitlines() if line.endswith(r" \\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
        assert "not D4RL" in table
        assert not re.search(r"(?<!\\)[#_^]|[<>\"|]", table)
    assert escape_latex(GRID.base) in text


@pytest.mark.skipif(shutil.which("lualatex") is None, reason="no lualatex")
def test_the_tables_compile(report: Path, tmp_path: Path) -> None:
    body = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{tables.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(body)
    shutil.copy(report / "tables.tex", tmp_path)
    command = ["lualatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def nothing_finished() -> GridResults:
    grid = made_grid(seeds=2)
    failures = tuple(CellStatus(result.cell, FAILED, "crashed", REASON) for result in grid.results[:3])
    return replace(grid, results=(), failures=failures, pending=tuple(CellStatus(r.cell) for r in grid.results[3:]))


def only_pending() -> GridResults:
    grid = made_grid(seeds=1)
    return replace(grid, results=(), pending=tuple(CellStatus(r.cell) for r in grid.results), gin="", facts={})


GRIDS = {
    "one label": lambda: made_grid((5,), seeds=3),
    "one seed": lambda: made_grid(seeds=1),
    "nothing finished": nothing_finished,
    "only pending": only_pending,
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_as_far_as_it_has_come_has_a_report(name: str, tmp_path: Path) -> None:
    results = GRIDS[name]()
    settings = replace(QUICK, rules=("mean_last_10",))
    written = write_report(results, settings, tmp_path / "report")
    text = text_of(tmp_path / "report")
    assert [path.name for path in written][: len(FILES)] == FILES
    heads = re.search(r'id="table-tasks-mean_last_10".*?</thead>', written[0].read_text(), re.DOTALL)
    assert heads is not None
    assert (">Task<" in heads[0]) == (len(results.tasks) > len(results.labels)), "as many rows as can be"
    assert all(label in text for label in results.labels)
    assert (REASON in text) == bool(results.failures)
    rows = list(csv.DictReader((tmp_path / "report" / "scores.csv").open(newline="")))
    assert len(rows) == len(results.labels) * len(results.tasks) * len(results.seeds)
    json.loads((tmp_path / "report" / "results.json").read_text())


def test_the_answer_says_what_is_decided() -> None:
    clear = made_grid(seeds=12, score=lambda value, task, seed: 10.0 * float(value) + 0.2 * seed)  # type: ignore[arg-type]
    text = summary_paragraph(analyse(clear, QUICK))
    assert text.startswith(
        "This grid compares 3 settings (N=2, N=5 and N=10) on 2 tasks "
        "(walker2d-medium-expert-v2 and hopper-medium-expert-v2) with 12 seeds each. All 72 runs have finished. "
        "By selection rule last, N=10 has the highest interquartile mean (IQM), 101.1"
    )
    assert re.search(r"Against the base, N=5: N=10 \(\+50\.0 .*?\) is better; N=2 \(\u221230\.0 .*?\) is worse\.", text)
    assert text.endswith("All scores: not D4RL.")
    few = with_gaps(made_grid(seeds=2))
    text = summary_paragraph(analyse(few, QUICK))
    assert "10 of 12 runs have finished." in text
    assert re.search(r"undecided \(no test decides below \d+ seeds, however large the difference\)", text)


def test_where_settings_are_many_the_figure_says_which_it_shows() -> None:
    grid = made_grid(tuple(range(1, 21)), TASKS[:1], 1, lambda value, task, seed: float(value))  # type: ignore[arg-type]
    analysis = analyse(replace(grid, base="N=1"), replace(QUICK, rules=("last",)))
    labels, note = choose_labels(analysis, grid.labels, 12, 7)
    assert labels == ["N=1", *(f"N={value}" for value in range(15, 21))]
    assert note.startswith("Of 20 settings, the base and the 6 with the highest IQM (last) are drawn")
    assert choose_labels(analysis, grid.labels[:12], 12, 7)[1] == ""
    drawn = figures.draw_figures(analysis)
    assert "Of 20 settings" in drawn["learning_curves"].caption
    assert len(drawn["learning_curves"].figure.axes[0].lines) == 7


def test_the_curves_are_those_of_the_analysis() -> None:
    grid = made_grid(seeds=3)
    analysis = analyse(grid, QUICK)
    panels = figures.draw_figures(analysis)["learning_curves"].figure.axes
    assert [axes.get_title() for axes in panels] == list(TASKS)
    for axes, task in zip(panels, TASKS, strict=True):
        means = analysis.curves[(analysis.curves.task == task) & (analysis.curves.metric == "mean")]
        curves = [curve for _, curve in means.groupby("setting", sort=False)]
        assert [list(line.get_ydata()) for line in axes.lines] == [list(curve.point) for curve in curves]
        assert [list(line.get_xdata()) for line in axes.lines] == [list(curve.step) for curve in curves]
        assert len({line.get_color() for line in axes.lines}) == 3


def test_values_are_an_axis_where_they_are_numbers() -> None:
    grid = made_grid((2, 5, 10), seeds=1)
    assert numeric_axis(grid) == "N"
    assert lines_of(grid, "N") == {"": [(2.0, "N=2"), (5.0, "N=5"), (10.0, "N=10")]}
    assert numeric_axis(replace(grid, axes={"N": ("2", "5"), "eta": ("0.5", "1.0")})) is None
    assert numeric_axis(replace(grid, axes={"N": ("2", "five"), "eta": ("0.5", "1.0")})) == "eta"
    assert numeric_axis(replace(grid, axes={"flag": ("True", "False"), "N": ("2", "nan")})) is None
    both = [replace(r, cell=replace(r.cell, points={**r.cell.points, "s": "vp"})) for r in grid.results]
    assert list(lines_of(replace(grid, results=tuple(both)), "N")) == ["vp"]


def test_what_was_used_is_cited() -> None:
    resolver = ConfigResolver([ROOT / "ablations" / "samplers.gin"])
    (task, base), *_ = resolver.bases().items()
    read = [resolver.values(task, base, setting)[0] for setting in resolver.grid.settings]
    runs = [{short_name(name): value for name, value in values.items()} for values in read]
    grid = replace(made_grid(seeds=1), components=components_used(runs))
    keys = cited(grid)
    used = {"lu2022dpmsolverpp", "song2021denoising", "karras2022elucidating", "ho2020denoising"}
    assert keys >= {"dqlab", *write.ALWAYS, *used}
    assert "park2025flow" not in keys


def cited(grid: GridResults) -> set[str]:
    return set(re.findall(r"^@\w+\{(\w+),", bibtex_file(grid), re.MULTILINE))


def test_every_source_of_a_component_has_an_entry() -> None:
    own = [entry for kind in Registry.kinds for entry in registry_of(kind) if entry.package == "dqlab"]
    assert len(own) > 50
    assert [entry.source for entry in own if write.YEAR.search(entry.source) and not entry.cites] == []
    assert {*write.ALWAYS, *(key for entry in own for key in entry.cites)} <= set(load_bibliography())


def test_a_plugins_component_without_keys_is_named_by_its_source() -> None:
    mine = [RegistryEntry("mine", None, "Doe 2031"), RegistryEntry("plain", None, "my own")]
    mine += [RegistryEntry("known", None, "Ho 2020", cites=HO)]
    grid = replace(made_grid(seeds=1), components=tuple(mine))
    assert re.findall("^%.*", bibtex_file(grid), re.MULTILINE) == ["% No entry is known for mine: Doe 2031"]
    assert {*HO} < cited(grid)


def test_entries_are_complete() -> None:
    for text in load_bibliography().values():
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", text, re.MULTILINE))
        assert re.fullmatch(r"(19|20)\d\d", fields["year"])
        assert fields["title"]
        assert text.count("{") == text.count("}")
        assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "1234.5678"))


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests")
from pathlib import Path
from dqlab import files
files.os.rename = lambda new, old: os.kill(os.getpid(), signal.SIGKILL)
with files.new_folder(Path(sys.argv[1]), lambda folder: True) as new:
    (new / "index.html").write_text("half")
"""


def test_what_fails_or_is_killed_while_writing_leaves_the_old_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one tidies up."""
    folder = tmp_path / "report"
    write_report(only_pending(), QUICK, folder)
    before = (folder / "index.html").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files_module, "_flush", full)
        with pytest.raises(OSError, match="No space"):
            write_report(nothing_finished(), QUICK, folder)
    assert (folder / "index.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert (folder / "index.html").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    write_report(nothing_finished(), QUICK, folder)
    assert (folder / "index.html").read_bytes() != before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something else than a report"):
        write_report(only_pending(), QUICK, tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_words() -> None:
    assert [format_points(value) for value in (12.34, -0.04, -3.21)] == ["12.3", "0.0", "\u22123.2"]
    assert format_points(0.26, signed=True) == "+0.3"
    assert enumerate_names(["a", "b", "c"]) == "a, b and c"
    assert enumerate_names(["a, 1", "b", "c"]) == "a, 1; b; and c"
    assert enumerate_names(list("abcdefgh"), 3) == "a, b and 6 more"
