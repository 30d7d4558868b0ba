"""Typed settings, mirrored by `config.example.toml`; `load()` reports every fault at once.

settings: the dataclasses · keys: which key is which setting · values, s3_values, …: how one value is read ·
document: a file as far as it could be read · rules, policies, s3_rules: checks across values ·
places, own_places: checks on the mounts, of what is moved and of what is tierd's own.
"""

from tierd.config.fault import Fault, Mounts
from tierd.config.load import DEFAULT_PATH, PATH_VARIABLE, check, config_path, load
from tierd.config.settings import ApiConfig, Config, LogConfig, MoverConfig, ObserveConfig

__all__ = [
    "DEFAULT_PATH",
    "PATH_VARIABLE",
    "ApiConfig",
    "Config",
    "Fault",
    "LogConfig",
    "Mounts",
    "MoverConfig",
    "ObserveConfig",
    "check",
    "config_path",
    "load",
]
