"""Storages for static files, as projects may have them."""

from __future__ import annotations

from django.contrib.staticfiles.storage import ManifestStaticFilesStorage


class AggregatingStorage(ManifestStaticFilesStorage):
    """Hashes in the names of files, also where modules import each other."""

    support_js_module_import_aggregation = True
