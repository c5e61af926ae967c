from __future__ import annotations

from django.urls import path
from rooms import views

urlpatterns = [
    path("login/", views.log_in),
    path("groups/", views.groups),
]
