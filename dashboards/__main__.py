"""``python -m dashboards [--settings FILE] [--output DIR]`` writes every dashboard as JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dashboards.board import text
from dashboards.every import every
from exporter.rules.load import RuleSettingsError, load
from exporter.rules.settings import DEFAULTS


def main() -> int:
    """Write the files; return 2 where the settings cannot be used or the folder cannot be written to."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description="Write the Grafana dashboards as JSON.")
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="TOML file that changes the alerts, as for `forewarn rules`: the dashboards draw what it says",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path(__file__).parent,
        help="where they go, by default dashboards/",
    )
    chosen = parser.parse_args()
    try:
        settings = load(chosen.settings) if chosen.settings else DEFAULTS
    except RuleSettingsError as error:
        sys.stderr.write("".join(f"dashboards: {problem}\n" for problem in error.problems))
        return 2
    try:
        chosen.output.mkdir(parents=True, exist_ok=True)
        for board in every(settings):
            (chosen.output / f"{board.uid}.json").write_text(text(board))
    except OSError as error:
        sys.stderr.write(f"dashboards: {chosen.output}: {error.strerror or error}; name a folder to write to\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
