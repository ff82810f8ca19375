"""Forewarn's own HTTP server."""
