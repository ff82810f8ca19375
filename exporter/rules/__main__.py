"""``python -m exporter.rules`` writes the rules with their defaults, and what the documentation says of them."""

from __future__ import annotations

from pathlib import Path

from exporter.rules.docs import overview, with_rule
from exporter.rules.render import FORMATS, render
from exporter.rules.settings import DEFAULTS

FILES = {"prometheus": "faktory.yml", "kubernetes": "faktory.prometheusrule.yml"}
RUNBOOKS = Path("docs", "runbooks")

if __name__ == "__main__":
    for form in FORMATS:
        Path("alerts", FILES[form]).write_text(render(DEFAULTS, form))
    Path("docs", "alerts.md").write_text(overview(DEFAULTS))
    for page in RUNBOOKS.glob("*.md"):
        if page.name != "README.md":
            page.write_text(with_rule(page.read_text(), page.stem, DEFAULTS))
