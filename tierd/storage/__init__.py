"""What holds bytes: one driver per kind of tier, and the manifest that all of them share."""
