from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("", include("ws_support.urls"))]
