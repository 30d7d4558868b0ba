"""tierd keeps every dataset snapshot on the cheapest storage from which a job still finds it on flash."""

__version__ = "0.1.0"
