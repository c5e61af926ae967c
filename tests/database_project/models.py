from __future__ import annotations

from django.db import models


class Visit(models.Model):
    class Meta:
        db_table = "visit"

    def __str__(self) -> str:
        return str(self.pk)
