"""Forewarn: a sidecar that stands beside a job server and warns before it fails."""

__version__ = "0.1.0"
