"""A real Prometheus as a child process: scrapes, evaluates the rules it is given, answers queries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.programs import HttpProgram
from tests.servers import wait_until

RESEND_DELAY = "10s"
"""An alert that found no Alertmanager is sent again after this time, by default a minute.

Four times as long without another sending, and Alertmanager takes it for resolved.
"""


class PrometheusError(Exception):
    """Prometheus refused what it was asked; the text is the API's."""


class Series(Struct, frozen=True):
    """One series of an answer: an instant query's has one point, a scalar's has no labels."""

    labels: dict[str, str]
    """The name of the metric among them, as ``__name__``."""
    points: tuple[tuple[float, float], ...]
    """Pairs of Unix time and value, oldest first."""

    @property
    def name(self) -> str:
        """The metric's name; empty where an expression has dropped it."""
        return self.labels.get("__name__", "")

    @property
    def value(self) -> float:
        """The newest value."""
        return self.points[-1][1]


class FoundExemplar(Struct, frozen=True):
    """One exemplar of a series."""

    series: dict[str, str]
    """The series' labels, the name of the metric among them as ``__name__``."""
    labels: dict[str, str]
    value: float
    at: float
    """In Unix time."""


class Prometheus(HttpProgram):
    """A Prometheus of its own for a test.

    ``targets`` are ``host:port`` of ``/metrics`` pages, ``rules`` are files, ``alertmanager`` is an ``address``,
    ``features`` are those of the flag ``--enable-feature``. Intervals are written as Prometheus writes them. An
    interval that a group in a rule file names goes before ``evaluation_interval``.
    """

    program = "prometheus"
    package = "prometheus"

    def __init__(
        self,
        *targets: str,
        rules: Sequence[Path] = (),
        alertmanager: str | None = None,
        scrape_interval: str = "1s",
        evaluation_interval: str = "1s",
        job: str = "forewarn",
        features: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.targets = targets
        self.alertmanager = alertmanager
        self.features = features
        configuration: dict[str, Any] = {
            "global": {"scrape_interval": scrape_interval, "evaluation_interval": evaluation_interval},
            "rule_files": [str(path.absolute()) for path in rules],
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": list(targets)}]}],
        }
        if alertmanager is not None:
            host = alertmanager.removeprefix("http://")
            configuration["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [host]}]}]}
        # JSON is YAML.
        (self.folder / "prometheus.yml").write_text(json.dumps(configuration, indent=1))

    def arguments(self) -> Sequence[str]:
        return [
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--rules.alert.resend-delay={RESEND_DELAY}",
            *(f"--enable-feature={feature}" for feature in self.features),
        ]

    async def is_ready(self) -> bool:
        # Found some seconds after the start: until then alerts are sent nowhere.
        return self.alertmanager is None or bool((await self.api("alertmanagers"))["activeAlertmanagers"])

    async def api(self, path: str, method: str = "GET", **parameters: str) -> Any:
        """Return the ``data`` of an answer of ``/api/v1/``.

        Raises:
            PrometheusError: with the API's own words, and the query where there was one.
        """
        if method == "GET":
            status, document = await self.request(method, f"/api/v1/{path}", params=list(parameters.items()))
        else:
            status, document = await self.request(method, f"/api/v1/{path}", data=parameters)
        if not isinstance(document, dict):
            raise PrometheusError(f"{path} answered {status}: {document[:500]}")
        if document["status"] != "success":
            asked = parameters.get("query", path)
            raise PrometheusError(f"{document['errorType']}: {document['error']} (asked for: {asked})")
        return document["data"]

    async def query(self, expression: str, at: float | None = None) -> list[Series]:
        """Return what an expression is now, or was at a Unix time. PrometheusError where it is none."""
        parameters = {"query": expression} | ({} if at is None else {"time": repr(at)})
        return _series(await self.api("query", "POST", **parameters))

    async def query_range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        """Return what an expression was between two Unix times, every ``step`` seconds."""
        parameters = {"query": expression, "start": repr(start), "end": repr(end), "step": repr(step)}
        return _series(await self.api("query_range", "POST", **parameters))

    async def query_exemplars(self, expression: str, start: float, end: float) -> list[FoundExemplar]:
        """Return the exemplars between two Unix times of all series that an expression selects.

        There are none without the feature ``exemplar-storage``.
        """
        found = await self.api("query_exemplars", query=expression, start=repr(start), end=repr(end))
        return [
            FoundExemplar(series["seriesLabels"], it["labels"], float(it["value"]), float(it["timestamp"]))
            for series in found
            for it in series["exemplars"]
        ]

    async def label_values(self, label: str, match: str | None = None) -> list[str]:
        """Return the values of a label, in all series or in those of a selector."""
        values: list[str] = await self.api(f"label/{label}/values", **({} if match is None else {"match[]": match}))
        return values

    async def rules(self) -> list[dict[str, Any]]:
        """Return every rule as the API tells it (``name``, ``type``, ``health``, ``lastError``), and its ``group``."""
        groups = (await self.api("rules"))["groups"]
        return [rule | {"group": group["name"]} for group in groups for rule in group["rules"]]

    async def alerts(self) -> list[dict[str, Any]]:
        """Return the pending and firing alerts as the API tells them (``labels``, ``annotations``, ``state``, ...)."""
        alerts: list[dict[str, Any]] = (await self.api("alerts"))["alerts"]
        return alerts

    async def problems(self) -> list[str]:
        """Return what does not work: targets not scraped, rules that fail or were never evaluated, logged warnings."""
        targets = (await self.api("targets"))["activeTargets"]
        return [
            *(["targets are not known yet"] if len(targets) != len(self.targets) else []),
            *(
                f"target {it['scrapeUrl']} is {it['health']}: {it['lastError'] or 'not scraped yet'}"
                for it in targets
                if it["health"] != "up"
            ),
            *(
                f"rule {it['name']} is {it['health']}: {it.get('lastError') or 'not evaluated yet'}"
                for it in await self.rules()
                if it["health"] != "ok"
            ),
            *self.complaints(),
        ]

    async def settled(self, deadline: float = 30.0) -> None:
        """Wait until every target was scraped and every rule evaluated, without a problem."""
        last: list[str] = []

        async def none() -> bool:
            last[:] = await self.problems()
            return not last

        try:
            await wait_until(none, deadline, every=0.1, what="Prometheus scrapes and evaluates without a problem")
        except AssertionError as error:
            error.add_note("\n".join(last))
            raise


def _series(data: Mapping[str, Any]) -> list[Series]:
    result = data["result"]
    if data["resultType"] == "scalar":
        return [Series({}, (_point(result),))]
    if data["resultType"] == "string":
        raise PrometheusError(f"a string is no series: {result[1]!r}")
    return [
        Series(it["metric"], tuple(map(_point, it["values"] if "values" in it else [it["value"]]))) for it in result
    ]


def _point(pair: Sequence[Any]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])
