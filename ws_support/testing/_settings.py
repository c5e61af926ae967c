"""The settings of a project, with those in their place that a test has given its server."""

from __future__ import annotations

import json
import os
from importlib import import_module

_module = import_module(os.environ["WS_SUPPORT_TESTING_SETTINGS_MODULE"])
globals().update({name: getattr(_module, name) for name in dir(_module) if name.isupper()})
globals().update(json.loads(os.environ["WS_SUPPORT_TESTING_SETTINGS"]))
