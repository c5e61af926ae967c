from __future__ import annotations

from channels.layers import get_channel_layer
from django.contrib.auth import authenticate, login
from django.http import HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST


@csrf_exempt
@require_POST
def log_in(request):
    user = authenticate(
        request, username=request.POST["username"], password=request.POST["password"]
    )
    if user is None:
        return HttpResponse(status=401)
    login(request, user)
    return HttpResponse(status=204)


async def groups(request):
    """How many channels each group has, for the operators."""
    return JsonResponse({group: len(names) for group, names in get_channel_layer().groups.items()})
