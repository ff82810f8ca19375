"""What any program tells by StatsD or DogStatsD: received, counted, and passed on, in a process of its own.

A burst of a hundred thousand packets a second must not delay a poll or a scrape, so the parsing has a process and an
interpreter of its own. The sidecar asks it once per poll for what it has counted since.
"""
