"""The Grafana dashboards: written as code, shipped as JSON. ``python -m dashboards`` writes the JSON anew."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # At import it would rather have us write the newest form, which only the newest Grafana reads.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    import grafana_foundation_sdk.builders.dashboard
    import grafana_foundation_sdk.builders.heatmap  # noqa: F401
