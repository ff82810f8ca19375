"""What a person wants to know of every server at a glance: for the status page, its JSON, and ``forewarn top``."""
