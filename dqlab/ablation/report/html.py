"""HTML of what a report consists of: escaped text, tables, figures, definition lists."""

from __future__ import annotations

import base64
from collections.abc import Container, Mapping, Sequence
from html import escape

from dqlab.ablation.report.figures import Drawn, image
from dqlab.ablation.report.figures.style import INK, TEXT_WIDTH
from dqlab.ablation.report.table import Column, Table, Value

MANY = 7  # columns from which on intervals stand below their numbers
THEMED = "<style>svg{color:#202428}@media (prefers-color-scheme:dark){svg{color:#e3e6ea}}</style>"


def section(name: str, title: str, *content: str) -> str:
    """A section with its heading; nothing where it has no content."""
    inside = "\n".join(filter(None, content))
    return f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{inside}\n</section>' if inside else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; nothing where there is no text."""
    return f"<p{_class(kind)}>{escape(text)}</p>" if text else ""


def bullets(lines: Sequence[str], kind: str = "") -> str:
    """A list; nothing where there are no lines."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul{_class(kind)}>{items}</ul>" if items else ""


def code(text: str) -> str:
    """Text as it stands, in a box of its own."""
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def details(title: str, *content: str, more: bool = False) -> str:
    """What is unfolded by a click; open on paper."""
    return f"<details{' open' if more else ''}><summary>{escape(title)}</summary>{''.join(content)}</details>"


def facts(known: Mapping[str, str]) -> str:
    """Names and values, a line each."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in known.items())
    return f"<dl>{rows}</dl>" if rows else ""


def table(data: Table) -> str:
    """A table that scrolls where the page is narrow; its heads sort it where scripts run."""
    words = data.words()
    head = "".join(_head(column, place in words) for place, column in enumerate(data.columns))
    body = "\n".join(_row(row, words, row[0].text in data.strong) for row in data.rows)
    kind = _class("many" if len(data.columns) > MANY else "")
    return (
        f'<div class="wide" tabindex="0"><table id="table-{escape(data.name)}"{kind}>'
        f"<caption><span>{escape(data.caption)}</span></caption><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _head(column: Column, words: bool) -> str:
    under = f"<small>{escape(column.under)}</small>" if column.under else ""
    return f'<th scope="col"{_class("text" if words else "")}>{escape(column.head)}{under}</th>'


def _row(row: Sequence[Value], words: Container[int], strong: bool) -> str:
    first, *others = row
    base = " <em>base</em>" if strong else ""
    cells = "".join(_cell(value, place in words) for place, value in enumerate(others, 1))
    return f'<tr{_class("base" if strong else "")}><th scope="row">{escape(first.text)}{base}</th>{cells}</tr>'


def _cell(value: Value, words: bool) -> str:
    detail = f" <small>{escape(value.detail)}</small>" if value.detail else ""
    number = f' data-number="{value.number!r}"' if value.number is not None else ""
    return f"<td{number}{_class('text' if words else '')}>{escape(value.text)}{detail}</td>"


def figure(drawn: Drawn | None) -> str:
    """The figure inside the page; ink becomes light where the page is dark. Nothing where there is no figure."""
    if drawn is None:
        return ""
    svg = image(drawn, "svg").decode().replace(INK, "currentColor")
    start = svg.index("<svg")
    inside = svg.index(">", start) + 1
    data = base64.b64encode((svg[start:inside] + THEMED + svg[inside:]).encode()).decode()
    share = drawn.figure.get_figwidth() / TEXT_WIDTH
    source = f"data:image/svg+xml;base64,{data}"
    return (
        f'<figure id="figure-{escape(drawn.name)}" style="--share: {share:.3g}"><div class="wide">'
        f'<img alt="{escape(drawn.caption)}" src="{source}"></div>'
        f"<figcaption>{escape(drawn.caption)}</figcaption></figure>"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
