"""The configuration of the Django application."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.utils.module_loading import autodiscover_modules


class WsSupportConfig(AppConfig):
    """Registers the system checks, imports the module `topics` of each application, and makes
    Granian, if it runs, close WebSockets when it stops.

    For the last one, `granian._signals.set_loop_signals` is replaced.
    """

    name = "ws_support"
    verbose_name = "WebSocket support"

    def ready(self) -> None:
        from ws_support import checks as our_checks
        from ws_support.servers import granian

        checks.register(our_checks.check_settings)
        checks.register(our_checks.check_topics)
        checks.register(our_checks.check_project)
        checks.register(our_checks.check_application)
        checks.register(our_checks.check_deployment, deploy=True)
        granian.patch_set_loop_signals()
        autodiscover_modules("topics")
