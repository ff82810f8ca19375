"""One script of exchanges, played to each server; the real servers' transcripts are kept and the stand-in must match.

``python -m tests.conformance.record`` plays it to the real servers that ``FAKTORY_BIN`` names, and records them.
"""
