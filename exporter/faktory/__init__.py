"""Everything that knows Faktory: its protocol, its Redis, its Web UI's health page."""
