from __future__ import annotations

from django.conf import settings
from django.db import models


class Room(models.Model):
    slug = models.SlugField(unique=True)
    for_staff = models.BooleanField(default=False)

    def __str__(self):
        return self.slug


class Message(models.Model):
    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    text = models.TextField()

    class Meta:
        ordering = ["pk"]

    def __str__(self):
        return f"{self.author}: {self.text}"


class Seat(models.Model):
    """Somebody who is in a room now, and the channel that leads there."""

    room = models.ForeignKey(Room, models.CASCADE, related_name="seats")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    channel_name = models.CharField(max_length=100, unique=True)

    class Meta:
        ordering = ["pk"]

    def __str__(self):
        return f"{self.user} in {self.room}"
