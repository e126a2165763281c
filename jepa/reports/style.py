"""The one style of what a person looks at: figures, colours, the page, and what pages and panels share.

A page is one HTML file that refers to nothing outside itself: its figures are embedded.
"""
import base64
from collections.abc import Iterable, Mapping, Sequence
import html
import json
import os
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jepa import logs
from jepa.evals import results

# Distinguishable with any colour vision (after Okabe and Ito).
COLOURS = {results.PIXELS: "#7a7f87", results.UNTRAINED: "#d98200", results.TRAINED: "#0b66b2"}
BLOCKS = ("#e6550d", "#0b9e73", "#c65ba0", "#0b66b2", "#d9a400", "#6a51a3")
RIGHT, WRONG = "#0b9e73", "#d7301f"
INK, FAINT = "#1d2430", "#6b7280"

STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": "#b8bec8",
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#e7eaef", "grid.linewidth": 0.8,
    "axes.axisbelow": True, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False, "legend.fontsize": 8.5, "lines.linewidth": 1.8, "figure.facecolor": "white",
    "axes.unicode_minus": True,
}

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{notes}
<section><h2>Results</h2>{table}</section>
{panels}
<section><h2>The run</h2>{facts}{config}{protocols}</section>
</main>
</body>
</html>
"""

CSS = """
:root { color-scheme: light; }
body { margin: 0; background: #f6f7f9; color: #1d2430;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial,
  sans-serif; }
main { max-width: 1020px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .4em; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0 0 .7em; }
h3 { font-size: .95rem; margin: 1.2em 0 .3em; }
section { background: #fff; border: 1px solid #e3e6eb; border-radius: 10px; padding: 20px 24px; \
margin: 18px 0; }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption, .small, .notes { color: #4b5563; font-size: .92rem; }
figcaption { margin-top: 12px; max-width: 78ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 9px 12px; text-align: right; border-bottom: 1px solid #e9ecf1; white-space: nowrap; }
thead th { font-size: .88rem; font-weight: 600; line-height: 1.3; vertical-align: bottom;
  border-bottom: 2px solid #c9ced6; }
thead small { color: #6b7280; font-weight: 400; }
tbody th { text-align: left; font-weight: 500; }
tr.trained { background: #eef5fb; }
tr.trained th { color: #0b66b2; font-weight: 650; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; margin: 0 0 1em; }
dt { color: #6b7280; } dd { margin: 0; min-width: 0; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
pre { background: #f6f7f9; border-radius: 6px; padding: 12px 14px; overflow-x: auto; white-space: pre-wrap; }
details { margin-top: .6em; } summary { cursor: pointer; font-weight: 600; }
"""


# Figures


def save(figure: Figure, path: str | os.PathLike) -> str:
  """Writes a PNG; returns its path."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  FigureCanvasAgg(figure)
  figure.savefig(path, format="png", dpi=144, metadata={"Software": None})
  return os.fspath(path)


def tags(ax: Axes, found: Sequence[tuple[float, str, str]]) -> None:
  """(value, text, colour) at the right of a plot, as names or final values of its lines, kept from covering
  one another."""
  low, high = ax.get_ylim()
  least, at = (high - low) * 0.06, []
  for value, *_ in sorted(found):
    at.append(max(value, at[-1] + least) if at else value)
  ceiling = high
  for i in reversed(range(len(at))):
    at[i] = min(at[i], ceiling)
    ceiling = at[i] - least
  for y, (_, text, colour) in zip(at, sorted(found)):
    ax.annotate(text, (1.015, y), xycoords=("axes fraction", "data"), va="center", color=colour, fontsize=8.5,
                weight="bold", annotation_clip=False)


# The page


def page(path: Path, *, title: str, notes: str = "", table: str, panels: Iterable[str],
         facts: Mapping[str, str], config: str = "", rows: Sequence[results.Row] = ()) -> Path:
  """Writes a page atomically; returns its path.

  Args:
    title, notes, config: plain text, notes and config "" where there are none.
    table, panels: HTML, as of `table` and `section`.
    facts: what makes the run repeatable; empty ones are left out.
    rows: results whose protocols are shown, that of every metric as it was for the last row that has it.
  """
  facts = "".join(f"<dt>{k}</dt><dd><code>{escape(v)}</code></dd>" for k, v in facts.items() if v)
  details = lambda summary, body: f"<details><summary>{summary}</summary>{body}</details>" if body else ""
  protocols = {metric: r["protocol"] for (_, metric), r in results.latest(rows).items()}
  dump = lambda protocol: escape(json.dumps(protocol, indent=1, default=str))
  logs.write_text(path, PAGE.format(
      title=escape(title), style=CSS, notes=f'<p class="notes">{escape(notes)}</p>' if notes else "",
      table=table, panels="\n".join(panels), facts=f"<dl>{facts}</dl>" if facts else "",
      config=details("Configuration", f"<pre>{escape(config)}</pre>" if config else ""),
      protocols=details("Evaluation protocols",
                        "".join(f"<h3>{escape(m)}</h3><pre>{dump(p)}</pre>" for m, p in protocols.items()))))
  return path


def table(head: str, lines: Iterable[str], notes: Iterable[str]) -> str:
  """A table that scrolls where it is too wide, of the cells of its head and its lines in HTML, and paragraphs
  of plain text below it."""
  return (f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
          f'<tbody>{"".join(lines)}</tbody></table></div>'
          + "".join(f'<p class="small">{escape(note)}</p>' for note in notes))


def section(path: str | os.PathLike, title: str, caption: str, *, scale: float) -> str:
  """A PNG, embedded, with its title and caption. scale: its pixels to one of the page; the same for all
  figures of a page, so that their letters have one size."""
  png, title = Path(path).read_bytes(), escape(title)
  width = round(int.from_bytes(png[16:20], "big") / scale)      # of the header
  return (f'<section><h2>{title}</h2><figure><img alt="{title}" width="{width}" '
          f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
          f"<figcaption>{escape(caption)}</figcaption></figure></section>")


def hardware(facts: Mapping[str, Any]) -> str:
  """What a run was made on, of logs.facts."""
  return f"{facts['devices']} x {facts['device']}, jax {facts['jax']}, Python {facts['python']}"


def escape(value: Any) -> str:
  """Plain text as HTML."""
  return html.escape(str(value))
