"""The driver for tiers that are directories of a local file system, and its copy engine."""
