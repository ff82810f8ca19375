"""An embedded stand-in for a Faktory server, and workers for it."""
