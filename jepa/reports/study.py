"""The page of a study: results.json, table.md, figures and report.html of many runs."""
from collections.abc import Mapping, Sequence
import json
from pathlib import Path
from typing import Any

from jepa import logs
from jepa.evals import results
from jepa.reports import curves, study_panels, study_rows, style
from jepa.reports.study_rows import Result, Row

SCALE = 1.5      # of pictures on the page


def write(workdir: Path, found: Sequence[Result], *, study: Mapping[str, Any], runs: Mapping[str, Mapping],
          command: str = "", config: Mapping[str, Any] = {}) -> Path:
  """results.json, table.md, figures/*.png and report.html in the workdir; returns the page's path.

  Args:
    found: what the workdir holds of the runs.
    study: the fields of jepa.study.Study. runs: those of jepa.study.Run, by name.
    command, config: the facts that make the study repeatable.
  """
  rows = study_rows.summarise(found)
  logs.write_text(workdir / "results.json", json.dumps(rows, indent=1) + "\n")
  done = [r for r in found if r.rows]
  last = done[-1].rows if done else []
  options = dict(x=study["x"] or "x" if study["figure"] == "lines" else "",
                 spread=study["figure"] == "curves", labels=curves.shots(results.latest(last)))
  notes = {name: r.get("note", "") for name, r in runs.items()}
  waiting = [name for name in runs if not any(row["name"] == name for row in rows)]
  waiting = f"Not run yet: {', '.join(waiting)}." if waiting else ""
  table = study_rows.markdown(rows, notes=notes, **options)
  logs.write_text(workdir / "table.md", f"{table}\n{waiting}\n" if waiting else table)
  panels = study_panels.draw(rows, found, workdir / "figures", figure=study["figure"], metric=study["metric"],
                             x=study["x"], chance=study["chance"])
  distinct = lambda values: "; ".join(dict.fromkeys(v for v in values if v))
  seconds = sum(r.record.get("seconds") or 0 for r in found)
  facts = {"Command": command, "Git revision": distinct(r.facts.get("git") for r in found),
           "Hardware": distinct(style.hardware(r.facts) for r in found if r.facts),
           "Time": f"{seconds / 3600:.2f} h, evaluations included"}
  if study["flops"] > 0:
    facts["Compute"] = (f"{study['flops']:.3g} FLOPs a run: matrix products and convolutions of the whole "
                        "train step")
  return style.page(
      workdir / "report.html", title=study["title"], notes=study["question"], facts=facts, rows=last,
      table=_table(rows, notes, waiting, options),
      panels=[style.section(path, *texts, scale=SCALE) for path, texts in panels.items()],
      config=json.dumps(config, indent=1, default=str) if config else "")


def _table(rows: Sequence[Row], notes: Mapping[str, str], waiting: str, options: Mapping[str, Any]) -> str:
  """HTML. notes: by name of the run. options: of study_rows.cells."""
  text, left = style.escape, ' style="text-align:left"'
  titles, lines = study_rows.cells(rows, **options)
  head = "".join(f"<th{left if i == 1 else ''}>{text(t)}</th>" for i, t in enumerate(titles))
  body = []
  for name, label, (group, *texts) in lines:
    note = f"<br><small>{text(notes[name])}</small>" if notes.get(name) else ""
    body.append(f'<tr><th scope="row">{text(label)}{note}</th><td{left}>{text(group)}</td>'
                + "".join(f"<td>{text(t)}</td>" for t in texts) + "</tr>")
  failures = [f"Failed: {f}" for f in study_rows.failures(rows)]
  return style.table(head, body, [study_rows.legend(rows), *failures, *([waiting] if waiting else [])])
