"""Modules that all servers of `manage.py runasgi` share."""
