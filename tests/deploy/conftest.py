from __future__ import annotations

import os

# What pytest, coverage and make put into the environment of whatever they start.
OURS = ("CI", "COV", "DJANGO_", "MAKE", "MFLAGS", "PORT", "PYTEST", "PYTHON", "VENV", "VIRTUAL_ENV")


def clean_environment() -> dict[str, str]:
    """The environment as a user's shell has it."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
