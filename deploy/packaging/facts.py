"""Print for a shell what both packages say of themselves, from pyproject.toml and the Python that runs this."""

from __future__ import annotations

import shlex
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
author = project["authors"][0]
summary, _, rest = project["description"].partition(": ")
for name, value in {
    "version": project["version"],
    "maintainer": f"{author['name']} <{author['email']}>",
    "license": project["license"],
    "summary": summary[:1].lower() + summary[1:],
    "description": rest[:1].upper() + rest[1:],
    "minor": sys.version_info[1],
}.items():
    print(f"{name}={shlex.quote(str(value))}")
