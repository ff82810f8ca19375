"""Panels, all in one style: what each shows is told by the dashboards' modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models import common as styles
from grafana_foundation_sdk.models.dashboard import (
    DashboardSpecialValueMapOptions,
    DataTransformerConfig,
    DynamicConfigValue,
    SpecialValueMap,
    SpecialValueMatch,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.units import Seconds
from msgspec import Struct

from dashboards.links import runbooks, to_runbook
from dashboards.queries import Query
from dashboards.thresholds import COLORS, NEUTRAL, Steps
from dashboards.variables import SOURCE
from exporter.rules.panels import Panel
from exporter.rules.settings import RuleSettings

T = TypeVar("T")
P = TypeVar("P", timeseries.Panel, stat.Panel, table.Panel, statetimeline.Panel, heatmap.Panel)

_ROOM: Final = 1.25
"""How far above its highest threshold a graph reaches, or the line would not be seen."""

_COLORED: Final = {"type": "color-background", "mode": "basic"}
"""How a cell of a table gets a ground of its colour."""

Size = tuple[int, int]
"""Width, of 24, and height."""

Values = Mapping[int, tuple[str, str]]
"""What each value of a state means, and its colour."""

UP_OR_DOWN: Final[Values] = {0: ("down", "red"), 1: ("up", "green")}


class Opens(Struct, frozen=True):
    """What a click on a cell of a table opens."""

    label: str
    """The column."""
    title: str
    address: str


class Column(Struct, frozen=True, kw_only=True):
    """One column of a table with a row for each thing: the value of a query, instant, for each of them."""

    title: str = ""
    expr: str
    unit: str = "short"
    steps: Steps = NEUTRAL
    values: Values | None = None
    """Told instead of the numbers."""
    for_labels: bool = False
    """Its value says nothing and is not shown: it is asked for because its labels are."""


class Panels:
    """Builds panels. Each gets the links to the runbooks of the alerts that open it."""

    def __init__(self, settings: RuleSettings) -> None:
        self._runbooks = runbooks(settings)

    def graph(
        self,
        panel: Panel,
        title: str,
        description: str,
        *queries: Query,
        unit: str,
        size: Size,
        steps: Steps = NEUTRAL,
        links: Sequence[DashboardLink] = (),
        whole: bool = False,
        bars: bool = False,
        stacked: bool = False,
    ) -> timeseries.Panel:
        """Return lines over time; ``whole``: there are no fractions, such as half a crash."""
        made = self._begun(timeseries.Panel(), panel, title, description, size, links)
        legend = common.VizLegendOptions().show_legend(True).display_mode(styles.LegendDisplayMode.TABLE)
        (
            made.unit(unit)
            .min(0)
            .legend(
                legend.placement(styles.LegendPlacement.BOTTOM)
                .calcs(["lastNotNull", "max"])
                .sort_by("Max")
                .sort_desc(True)
            )
            .tooltip(_tooltip())
            .line_width(1)
            .fill_opacity(10)
            .show_points(styles.VisibilityMode.NEVER)
            .thresholds(steps.config())
        )
        if steps.steps:
            made.thresholds_style(
                common.GraphThresholdsStyleConfig().mode(styles.GraphThresholdsStyleMode.DASHED)
            ).axis_soft_max(_ROOM * steps.highest)
        if whole:
            made.decimals(0)
        if bars:
            made.draw_style(styles.GraphDrawStyle.BARS).fill_opacity(60)
        if stacked:
            made.stacking(common.StackingConfig().mode(styles.StackingMode.NORMAL).group("A"))
        for letter, query in _lettered(queries):
            made.with_target(_asked(letter, query).range())
            if looks := _looks(query):
                made.override_by_query(letter, looks)
        return made

    def stat(
        self,
        panel: Panel,
        title: str,
        description: str,
        *queries: Query,
        unit: str = "short",
        size: Size = (4, 4),
        steps: Steps = NEUTRAL,
        values: Values | None = None,
        when_empty: str = "unknown",
        links: Sequence[DashboardLink] = (),
    ) -> stat.Panel:
        """Return the newest value, large, on a ground of its colour."""
        # Instant: a value that is no longer told must not stay on the wall as if it were still true.
        made = self._begun(stat.Panel(), panel, title, description, size, links)
        (
            made.unit(unit)
            .thresholds(steps.config())
            .no_value(when_empty)
            .graph_mode(styles.BigValueGraphMode.NONE)
            .color_mode(styles.BigValueColorMode.BACKGROUND)
            .text_mode(styles.BigValueTextMode.AUTO)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        )
        # What is not known would have the colour of what is best.
        unknown = SpecialValueMap(
            options=DashboardSpecialValueMapOptions(
                match=SpecialValueMatch.NULL_AND_NAN, result=ValueMappingResult(text=when_empty, color="gray")
            )
        )
        made.mappings([*_mappings(values or {}), unknown])
        for letter, query in _lettered(queries):
            made.with_target(_asked(letter, query).instant())
            if looks := _looks(query):
                made.override_by_query(letter, looks)
        return made

    def timeline(
        self,
        panel: Panel,
        title: str,
        description: str,
        query: Query,
        *,
        values: Values,
        steps: Steps,
        size: Size,
    ) -> statetimeline.Panel:
        """Return a bar for each series whose colour is its state."""
        made = self._begun(statetimeline.Panel(), panel, title, description, size)
        return (
            made.unit("none")
            .thresholds(steps.config())
            .mappings(_mappings(values))
            .show_value(styles.VisibilityMode.AUTO)
            .merge_values(True)
            .legend(
                common.VizLegendOptions()
                .show_legend(True)
                .display_mode(styles.LegendDisplayMode.LIST)
                .placement(styles.LegendPlacement.BOTTOM)
            )
            .tooltip(common.VizTooltipOptions().mode(styles.TooltipDisplayMode.SINGLE))
            .with_target(_asked("A", query).range())
        )

    def heat(self, panel: Panel, title: str, description: str, buckets: str, *, size: Size) -> heatmap.Panel:
        """Return how many there are in each bucket of seconds over time."""
        made = self._begun(heatmap.Panel(), panel, title, description, size)
        query = _asked("A", Query(expr=buckets, legend="{{le}}")).range().format(PromQueryFormat.HEATMAP)
        return (
            made.unit("short")
            .calculate(False)
            .y_axis(heatmap.YAxisConfig().unit(Seconds).min(0))
            .tooltip(
                heatmap.HeatmapTooltip().mode(styles.TooltipDisplayMode.SINGLE).y_histogram(True).show_color_scale(True)
            )
            .with_target(query)
        )

    def table(
        self,
        panel: Panel,
        title: str,
        description: str,
        *columns: Column,
        keys: Mapping[str, str],
        size: Size,
        opens: Opens,
        sorted_by: str,
        largest_first: bool = True,
        when_empty: str = "nothing",
    ) -> table.Panel:
        """Return a row for each combination of the labels ``keys``, told by their titles, in this order.

        Sorted by a column's title.
        """
        made = self._begun(table.Panel(), panel, title, description, size)
        (
            made.unit("short")
            .thresholds(NEUTRAL.config())
            .no_value(when_empty)
            .filterable(True)
            .sort_by([common.TableSortByFieldState().display_name(sorted_by).desc(largest_first)])
        )
        for label, name in keys.items():
            looks: dict[str, object] = {"displayName": name}
            if label == "severity":
                looks["mappings"] = _severities()
                looks["custom.cellOptions"] = _COLORED
            if label == opens.label:
                looks["links"] = [{"title": opens.title, "url": opens.address}]
            made.override_by_name(label, _properties(looks))
        order = {label: place for place, label in enumerate(keys)}
        left_out = {"Time": True}
        for letter, column in _lettered(columns):
            asked = _asked(letter, Query(expr=column.expr, legend="")).instant().format(PromQueryFormat.TABLE)
            made.with_target(asked)
            # Grafana gives the value no letter where there is one query only.
            field = f"Value #{letter}" if len(columns) > 1 else "Value"
            order[field] = len(order)
            if column.for_labels:
                left_out[field] = True
                continue
            looks = {"displayName": column.title, "unit": column.unit}
            if column.steps != NEUTRAL:
                looks["thresholds"] = column.steps.config().build()
                looks["custom.cellOptions"] = _COLORED
            if column.values is not None:
                looks["mappings"] = _mappings(column.values)
            made.override_by_name(field, _properties(looks))
        return made.with_transformation(DataTransformerConfig(id_val="merge", options={})).with_transformation(
            DataTransformerConfig(
                id_val="organize", options={"excludeByName": left_out, "indexByName": order, "renameByName": {}}
            )
        )

    def _begun(
        self, made: P, panel: Panel, title: str, description: str, size: Size, links: Sequence[DashboardLink] = ()
    ) -> P:
        pages: list[DashboardLink] = [
            to_runbook(name, address) for name, address in self._runbooks.get(panel, {}).items()
        ]
        made.id(panel.number).title(title).description(" ".join(description.split())).datasource(SOURCE)
        made.span(size[0]).height(size[1]).links([*pages, *links])
        return made


def _lettered(queries: Iterable[T]) -> Iterator[tuple[str, T]]:
    for place, query in enumerate(queries):
        yield ascii_uppercase[place % 26] * (1 + place // 26), query


def _asked(letter: str, query: Query) -> prometheus.Dataquery:
    asked = prometheus.Dataquery().ref_id(letter).expr(query.expr).legend_format(query.legend).datasource(SOURCE)
    return asked.exemplar(True) if query.exemplar else asked


def _looks(query: Query) -> list[DynamicConfigValue]:
    looks: dict[str, object] = {}
    if query.compared:
        looks |= {"custom.lineStyle": {"fill": "dash", "dash": [8, 8]}, "custom.fillOpacity": 0}
    if query.unit:
        looks |= {"unit": query.unit, "custom.axisPlacement": "right"}
    if query.steps is not None:
        looks |= {"thresholds": query.steps.config().build()}
        if query.unit and query.steps.steps:
            looks |= {
                "custom.thresholdsStyle": {"mode": "dashed"},
                "custom.axisSoftMax": _ROOM * query.steps.highest,
            }
    return _properties(looks)


def _properties(looks: Mapping[str, object]) -> list[DynamicConfigValue]:
    return [DynamicConfigValue(id_val=name, value=value) for name, value in looks.items()]


def _mappings(values: Values) -> list[ValueMapping]:
    told = {str(value): ValueMappingResult(text=text, color=color) for value, (text, color) in values.items()}
    return [ValueMap(options=told)] if told else []


def _severities() -> list[ValueMapping]:
    return [ValueMap(options={name: ValueMappingResult(text=name, color=color) for name, color in COLORS.items()})]


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(styles.TooltipDisplayMode.MULTI).sort(styles.SortOrder.DESCENDING)
