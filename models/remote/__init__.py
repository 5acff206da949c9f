"""Builds on another machine: what is said between the host and a builder, and the builder itself.

The same conversation goes over any pair of byte streams: ssh's, or those of a process that a
Dask worker started. Nothing is pickled, and what a builder sends is data alone.
"""
