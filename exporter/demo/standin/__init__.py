"""The stand-in: a server that behaves as Faktory does towards clients, observers and its own Redis.

For a first look without a Faktory, and for tests where none is at hand. Its data is in a real Redis under the same
keys. It is kept true by a suite that plays one script of exchanges to it and to real servers. Not for production.
"""
