"""Reports of grids: everything is written, agrees with the analysis, reads well, and replaces an older one at once."""

from __future__ import annotations

import csv
import html
import json
import math
import os
import re
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

from dqlab.ablation.folder import components_used
from dqlab.ablation.planning import ConfigResolver
from dqlab.analysis.report import write
from dqlab.analysis.report.figures import draw_figures
from dqlab.analysis.report.write import FRAMES, bibtex_file, load_bibliography, scores_csv, write_report
from dqlab.analysis.results import FAILED, CellStatus, GridResults, Report
from dqlab.analysis.statistics import analyse
from dqlab.config.identity import short_name
from dqlab.config.registry import Registry, RegistryEntry, registry_of
from dqlab.errors import RunError
from dqlab.tracking.selection_rules import SELECTION_RULES, rule_name

QUICK = Report(reps=100)
REASON = 'CUDA error: <out of memory> & "things", 100% of step_5'
LABELS = {"N=2": '<b>"a" & |b_1|</b>, 50%', "N=5": "[base], ~#{}\\ it's η=½ $x$ 中^", "N=10": "Diffusion-QL, 5 steps"}
LATEX = (
    r"\textless{}b\textgreater{}''a'' \& \textbar{}b\_1\textbar{}\textless{}/b\textgreater{}, 50\%",
    r"\textbf{{}[base], \textasciitilde{}\#\{\}\textbackslash{} it's η=½ \$x\$ 中\textasciicircum{}}",
)
SHEETS = ["scores.csv", "aggregates.csv", "checkpoints.csv", "tuning.csv"]
FILES = ["index.html", *SHEETS, "results.json", "tables.tex", "references.bib"]
FIGURES = ["iqm", "score_by_value", "learning_curves", "tuning", "profiles"]
VOID = {"meta", "img", "br", "hr", "link", "input"}
SECTIONS = ["comparisons", "aggregate", "values", "tasks", "curves", "checkpoints", "tuning", "profiles", "references"]


def with_gaps(grid: GridResults) -> GridResults:
    """One cell failed, one is pending."""
    failed, pending, *results = grid.results
    failures = (CellStatus(failed.cell, FAILED, "diverged", REASON),)
    return replace(grid, results=tuple(results), failures=failures, pending=(CellStatus(pending.cell),))


def renamed(grid: GridResults) -> GridResults:
    """The same grid with labels that every format has to escape."""
    results = tuple(replace(r, cell=replace(r.cell, label=LABELS[r.cell.label])) for r in grid.results)
    return replace(grid, base=LABELS[grid.base], labels=tuple(map(LABELS.__getitem__, grid.labels)), results=results)


GRID = with_gaps(renamed(made_grid(seeds=3)))
PUBLISHED = {LABELS["N=5"]: {TASKS[0]: (110.1, 0.3), TASKS[1]: (111.3,)}}
SETTINGS = Report(reps=100, reference=PUBLISHED, reference_source="a paper")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid") / "report"
    written = write_report(GRID, SETTINGS, folder)
    drawn = [f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")]
    assert [str(path.relative_to(folder)) for path in written] == FILES + drawn
    assert sorted(written) == sorted(path for path in folder.rglob("*") if path.is_file())
    return folder


def text_of(report: Path) -> str:
    """What a page says; whatever it opens it closes."""
    page = re.sub(r"<(style|script)>.*?</\1>", "", (report / "index.html").read_text(), flags=re.DOTALL)
    opened, closed = (Counter(re.findall(rf"<{slash}(\w+)", page)) for slash in ("", "/"))
    assert opened - closed == Counter({tag: opened[tag] for tag in VOID & set(opened)})
    assert not closed - opened
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


def test_the_page_is_whole_and_needs_nothing_from_outside(report: Path) -> None:
    page, text = (report / "index.html").read_text(), text_of(report)
    links = re.findall(r'<[^>]* (?:src|href|srcset|data|action)="([^"]*)"', page)
    assert links
    assert all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|<[^>]* on\w+=", page)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(set(ids)) == len(ids)
    said = (*GRID.labels, *TASKS, *map(rule_name, SELECTION_RULES), REASON, GRID.gin.strip(), "not D4RL", "a paper")
    assert not [each for each in (*said, "2.13.0", "; ".join(GRID.labels[:2]) + "; and ") if each not in text]
    sections = re.findall(r'<section id="([\w-]+)"', page)
    assert sections == [*SECTIONS, "failures", "all-rules", "gin", "made", "cite"], "the verdict first"


def test_no_scores_without_their_rule_and_caveat(report: Path) -> None:
    page = (report / "index.html").read_text()
    captions = re.findall(r"<caption>(.*?)</caption>", page, re.DOTALL)
    scored = [caption for caption in captions if "ormalised scores" in caption]
    assert len(scored) >= 10
    assert all("not D4RL" in caption for caption in scored)
    assert len(captions) - len(scored) == 1, "only failures have no scores"
    head = re.findall(r'"table-iqm-mean".*?</thead>', page, re.DOTALL)[0]
    assert [head.count(f"<small>{rule_name(rule)}</small>") for rule in SETTINGS.rules] == [2, 2, 2]


def test_the_figures_are_images(report: Path) -> None:
    for name in FIGURES:
        png, pdf = ((report / "figures" / f"{name}.{kind}").read_bytes() for kind in ("png", "pdf"))
        width, height = struct.unpack(">II", png[16:24])
        assert (600 <= width <= 1600, 200 <= height <= 1600, len(png) > 8000) == (True, True, True)
        assert (png[:8], pdf[:5], b"%%EOF" in pdf[-10:]) == (b"\x89PNG\r\n\x1a\n", b"%PDF-", True)


def test_the_sheet_of_cells_has_them_all(report: Path) -> None:
    rows = rows_of(report / "scores.csv")
    assert Counter(row["state"] for row in rows) == {"finished": 16, "diverged": 1, "pending": 1}
    by_id = {row["id"]: row for row in rows}
    for result in GRID.results:
        cell, scores = result.cell, {f"score_{rule}": str(result.score(rule)) for rule in SELECTION_RULES}
        about = {"label": cell.label, "task": cell.task, "seed": str(cell.seed), "N": cell.points["N"]}
        assert by_id[cell.id].items() >= {**about, **scores, "steps": "5000", "caveat": "not D4RL"}.items()
    failed = by_id[GRID.failures[0].cell.id]
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
    rows = {(row["rule"], row["label"]): row for row in rows_of(report / "aggregates.csv")}
    assert len(rows) == len(SELECTION_RULES) * 3
    for (rule, label), row in rows.items():
        iqm, tests = analysis.figure(rule, "iqm").loc[label], analysis.compared(rule)
        wanted = ["" if math.isnan(each) else str(each) for each in (iqm.point, iqm.low, iqm.high)]
        assert [row["iqm"], row["iqm_low"], row["iqm_high"]] == wanted
        assert row["corrected"] == (str(tests.corrected[label]) if label in tests.index else "")


def test_the_tables_are_booktabs_and_print_every_text_as_it_is(report: Path) -> None:
    text = (report / "tables.tex").read_text()
    tables = re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, re.DOTALL)
    assert len(tables) == 4 + 2 * len(SETTINGS.rules) + 1
    assert len(set(re.findall(r"\\label\{.*\}", text))) == len(tables)
    for table in tables:
        assert all(table.count(rule) == 1 for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption"))
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", table)[1])  # type: ignore[index]
        rows = [line for line in table.splitlines() if line.endswith(r" \\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}
        assert "not D4RL" in table
        assert not re.search(r"(?<!\\)[#_^]|[<>\"|]", table)
    assert all(label in tables[0] for label in LATEX)
    assert r" & 110.1 {\scriptsize $\pm$ 0.3} & $-$" in tables[-1]


def only_pending() -> GridResults:
    grid = made_grid(seeds=1)
    return replace(grid, results=(), pending=tuple(CellStatus(r.cell) for r in grid.results), gin="", facts={})


@pytest.mark.parametrize("results", [made_grid((5,), seeds=3), made_grid(seeds=1), only_pending()])
def test_a_grid_as_far_as_it_has_come_has_a_report(results: GridResults, tmp_path: Path) -> None:
    """Of one setting; of one seed; before anything has finished."""
    written = write_report(results, replace(QUICK, rules=("mean_last_10",)), tmp_path / "report")
    text = text_of(tmp_path / "report")
    assert [path.name for path in written][: len(FILES)] == FILES
    (heads,) = re.findall(r'id="table-tasks-mean_last_10".*?</thead>', written[0].read_text(), re.DOTALL)
    assert (">Task<" in heads) == (len(results.tasks) > len(results.labels)), "as many rows as can be"
    assert all(label in text for label in results.labels)
    assert len(rows_of(tmp_path / "report" / "scores.csv")) == len(results.statuses)
    json.loads((tmp_path / "report" / "results.json").read_text())


def test_the_answer_says_what_is_decided_first() -> None:
    clear = made_grid(seeds=12, score=lambda value, task, seed: 10.0 * float(value) + 0.2 * seed)  # type: ignore[arg-type]
    text = write.summary_paragraph(analyse(clear, QUICK))
    verdict = r"N=10 \(\+50\.0 points on average \[.*?\], corrected p < 0\.001\) is better; "
    verdict += r"N=2 \(\u221230\.0 .*?\) is worse\."
    best = r"N=10 has the highest interquartile mean \(IQM\), 101\.1 \["
    assert re.match(f"By selection rule last, against the base, N=5: {verdict} {best}", text)
    assert text.endswith(
        " This grid compares 3 settings (N=2, N=5 and N=10) on 2 tasks (walker2d-medium-expert-v2 and "
        "hopper-medium-expert-v2) with 12 seeds each. All 72 runs have finished. All scores: not D4RL."
    )
    text = write.summary_paragraph(analyse(with_gaps(made_grid(seeds=2)), QUICK))
    assert "10 of 12 runs have finished." in text
    assert "undecided (no test decides below 10 seeds, however large the difference)" in text


def test_what_settings_run_and_how_long_is_on_the_page(tmp_path: Path) -> None:
    """All of the base's parameters, and of the others what differs; the budget where they share it."""
    budget = {"Training.steps": 60, "Training.eval_episodes": 2}
    grid = replace(made_grid((2, 5), TASKS[:1], 2), base="N=5")
    configs = {f"N={n}": {**budget, "DiffusionPolicy.n_timesteps": n} for n in (2, 5)}
    grid = replace(grid, configs={TASKS[0]: configs})
    assert "A run is 60 updates, an evaluation 2 episodes." in write.summary_paragraph(analyse(grid, QUICK))
    write_report(grid, QUICK, tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert 'N=2: where it differs</summary><pre tabindex="0"><code>DiffusionPolicy.n_timesteps = 2</code>' in page
    whole = page.split("N=5: all of it")[1]
    assert all(f"{name} = {value}" in whole for name, value in budget.items())
    for other in ({"N=2": {**budget, "Training.steps": 70}}, {"N=5": {}}):
        mixed = replace(grid, configs={**grid.configs, TASKS[1]: other})
        assert "A run is" not in write.summary_paragraph(analyse(mixed, QUICK))
    chunks = {"N=5": {"Experiment.action_chunk": 5}, "N=2": {"Experiment.action_chunk": 1}}
    shown = dict(write._configurations(replace(grid, configs={TASKS[1]: chunks})))
    assert shown["N=2: where it differs"] == "Experiment.action_chunk = 1"
    apart = {TASKS[0]: {"N=5": {"a.b": 1}}, TASKS[1]: {"N=5": {"a.b": 2}, "N=2": {"a.b": 2, "a.c": 3}}}
    shown = dict(write._configurations(replace(grid, tasks=tuple(TASKS[:2]), configs=apart)))
    assert shown[f"N=2: where it differs (on {TASKS[1]})"] == "a.c = 3"


def test_where_settings_are_many_the_figure_says_which_it_shows() -> None:
    grid = made_grid(tuple(range(1, 21)), TASKS[:1], 1, lambda value, task, seed: float(value))  # type: ignore[arg-type]
    analysis = analyse(replace(grid, base="N=1"), replace(QUICK, rules=("last",)))
    assert "20 settings (N=1, N=2, N=3, N=4, N=5 and 15 more)" in write.summary_paragraph(analysis)
    figures = draw_figures(analysis)
    assert figures["score_by_value"].figure.axes[0].get_xscale() == "log", "20 is ten times 1"
    drawn = figures["learning_curves"]
    assert "Of 20 settings, the base and the 6 with the highest IQM (last) are drawn" in drawn.caption
    lines = [line.get_label() for line in drawn.figure.axes[0].lines]
    assert lines == ["N=1", *(f"N={value}" for value in range(15, 21))]


def test_the_curves_are_those_of_the_analysis() -> None:
    analysis = analyse(made_grid(seeds=3), QUICK)
    drawn = draw_figures(analysis)["learning_curves"]
    assert "settings" not in drawn.caption
    assert [axes.get_title() for axes in drawn.figure.axes] == list(TASKS)
    for axes, (_, means) in zip(drawn.figure.axes, analysis.curves.groupby("task", sort=False), strict=True):
        curves = [(list(curve.step), list(curve.point)) for _, curve in means.groupby("setting", sort=False)]
        assert [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines] == curves
        assert len({line.get_color() for line in axes.lines}) == 3


@pytest.mark.parametrize(
    ("axes", "shown"),
    [
        ({"N": ("2", "5", "10")}, ("N", ["s=vp"])),
        ({"N": ("2", "5"), "eta": ("0.5", "1.0")}, None),
        ({"s": ("2", "five"), "N": ("2", "5")}, ("N", ["s=vp"])),
        ({"flag": ("True", "False"), "N": ("2", "nan")}, None),
    ],
)
def test_values_are_an_axis_where_they_are_numbers(axes: dict[str, tuple[str, ...]], shown: object) -> None:
    grid = made_grid((2, 5, 10), seeds=1)
    both = [replace(r, cell=replace(r.cell, points={**r.cell.points, "s": "s=vp"})) for r in grid.results]
    drawn = draw_figures(analyse(replace(grid, axes=axes, results=tuple(both)), replace(QUICK, rules=("last",))))
    found = drawn["score_by_value"].figure.axes[0] if "score_by_value" in drawn else None
    assert (found and (found.get_xlabel(), found.get_legend_handles_labels()[1])) == shown
    assert found is None or list(found.containers[0].lines[0].get_xdata()) == [2.0, 5.0, 10.0]
    assert found is None or found.get_xscale() == "linear"


def cited(grid: GridResults) -> set[str]:
    return set(re.findall(r"^@\w+\{(\w+),", bibtex_file(grid), re.MULTILINE))


def test_what_was_used_is_cited() -> None:
    resolver = ConfigResolver([ROOT / "ablations" / "samplers.gin"])
    (task, base), *_ = resolver.bases().items()
    read = [resolver.values(task, base, setting)[0] for setting in resolver.grid.settings]
    runs = [{short_name(name): value for name, value in values.items()} for values in read]
    keys = cited(replace(made_grid(seeds=1), components=components_used(runs)))
    used = {"lu2022dpmsolverpp", "song2021denoising", "karras2022elucidating", "ho2020denoising"}
    assert keys >= {"dqlab", *write.ALWAYS, *used}
    assert "park2025flow" not in keys


def test_every_source_of_a_component_has_a_complete_entry() -> None:
    own = [entry for kind in Registry.kinds for entry in registry_of(kind) if entry.package == "dqlab"]
    assert len(own) > 50
    assert [entry.source for entry in own if write.YEAR.search(entry.source) and not entry.cites] == []
    assert {*write.ALWAYS, *(key for entry in own for key in entry.cites)} <= set(load_bibliography())
    for text in load_bibliography().values():
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", text, re.MULTILINE))
        assert re.fullmatch(r"(19|20)\d\d", fields["year"])
        assert fields["title"]
        assert text.count("{") == text.count("}")
        assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "1234.5678"))


def test_a_plugins_component_without_keys_is_named_by_its_source() -> None:
    mine = [RegistryEntry("mine", None, "Doe 2031"), RegistryEntry("plain", None, "my own")]
    mine += [RegistryEntry("known", None, "Ho 2020", cites=("ho2020denoising",))]
    grid = replace(made_grid(seeds=1), components=tuple(mine))
    assert re.findall("^%.*", bibtex_file(grid), re.MULTILINE) == ["% No entry is known for mine: Doe 2031"]
    assert "ho2020denoising" in cited(grid)


KILLED = """
import os, signal, sys
from pathlib import Path
from dqlab import files
files.os.rename = lambda new, old: os.kill(os.getpid(), signal.SIGKILL)
with files.new_folder(Path(sys.argv[1]), lambda folder: True) as new:
    (new / "index.html").write_text("half")
"""


def test_what_is_killed_while_writing_leaves_the_old_report(tmp_path: Path) -> None:
    """And the next one tidies up."""
    folder = tmp_path / "report"
    write_report(only_pending(), QUICK, folder)
    before = (folder / "index.html").read_bytes()
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    assert (folder / "index.html").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
    write_report(made_grid((5,), TASKS[:1], 1), QUICK, folder)
    assert (folder / "index.html").read_bytes() != before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something else than a report"):
        write_report(only_pending(), QUICK, tmp_path)
    assert os.listdir(tmp_path) == ["notes.txt"]
