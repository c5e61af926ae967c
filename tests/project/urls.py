"""The demo's pages, empty ones with the browser's clients, and those of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from django.http import HttpResponse
from django.template import engines
from django.urls import path

from example_project.urls import urlpatterns as demo_patterns
from tests.project import endless, requests

PAGE = """
{% load static ws_support %}
<!doctype html>
<title>Client</title>
<link rel="icon" href="data:,">
{% websocket_client "/logged" %}
<script type="module">
  import { ReliableWebSocket } from "{% static 'ws_support/client.js' %}";

  window.ReliableWebSocket = ReliableWebSocket;

  /** Open one, and keep what it says. */
  window.start = (options, url) => {
    window.events = [];
    window.socket = new ReliableWebSocket(url, [], options);
    for (const type of ["open", "message", "latency", "reconnecting", "reconnected", "close"]) {
      window.socket.addEventListener(type, ({ data, code, attempt, attempts }) => {
        window.events.push({ type, data, code, attempt, attempts, time: performance.now() });
      });
    }
  };
</script>
"""

HUB_PAGE = """
{% load static %}
<!doctype html>
<title>Hub</title>
<link rel="icon" href="data:,">
<script type="importmap">
  {"imports": {
    "/static/ws_support/client.js": "{% static 'ws_support/client.js' %}",
    "/static/ws_support/hub_protocol.js": "{% static 'ws_support/hub_protocol.js' %}",
    "/static/ws_support/hub_session.js": "{% static 'ws_support/hub_session.js' %}"
  }}
</script>
<script type="module">
  import { HubConnection } from "{% static 'ws_support/hub.js' %}";

  /** Connect to the hub, and note when it is back. */
  window.start = async (options) => {
    window.hub = new HubConnection("/hub", { minDelay: 100, maxDelay: 500, ...options });
    window.back = new Promise((resolve) => hub.addEventListener("reconnected", resolve));
    hub.on("AskForNumber", () => 42);
    await hub.start();
  };

  async function* parts() {
    yield* ["a", "b", "c"];
  }

  /** Use the hub in each way that there is. */
  window.use = async () => {
    const items = [];
    for await (const item of hub.stream("Counter", 3)) items.push(item);
    return {
      sum: await hub.invoke("Add", 1, 2),
      items,
      joined: await hub.invoke("Join", parts()),
      answer: await hub.invoke("Ask", "AskForNumber"),
    };
  };
</script>
"""

TOPICS_PAGE = """
{% load static ws_support %}
<!doctype html>
<title>Topics</title>
<link rel="icon" href="data:,">
<script type="importmap">
  {"imports": {
    "/static/ws_support/client.js": "{% static 'ws_support/client.js' %}",
    "/static/ws_support/hub.js": "{% static 'ws_support/hub.js' %}",
    "/static/ws_support/hub_protocol.js": "{% static 'ws_support/hub_protocol.js' %}",
    "/static/ws_support/hub_session.js": "{% static 'ws_support/hub_session.js' %}",
    "/static/ws_support/topics_follow.js": "{% static 'ws_support/topics_follow.js' %}",
    "/static/ws_support/topics_shared.js": "{% static 'ws_support/topics_shared.js' %}"
  }}
</script>
{% websocket_topics "/topics-hub" %}
<script type="module">
  import { Topics } from "{% static 'ws_support/topics.js' %}";

  const query = new URLSearchParams(location.search);
  window.events = [];
  const shared = query.has("shared");
  window.topics = new Topics(null, { minDelay: 100, maxDelay: 500, shared });
  window.room = topics.subscribe("room/x", {
    since: "stored",
    token: "{% topic_token 'room/x' %}",
    presence: { page: query.get("page") ?? "one" },
  });
  for (const type of ["subscribed", "message", "recovered", "gap", "presence", "error"]) {
    room.addEventListener(type, ({ data, missed, count, error }) => {
      window.events.push([type, data ?? missed ?? count ?? error?.message ?? null]);
    });
  }
</script>
"""

ROOT = Path(__file__).resolve().parent.parent.parent


def rendered(request, source):
    return HttpResponse(engines["django"].from_string(source).render({}, request))


def client(request):
    return rendered(request, PAGE)


def hub(request):
    return rendered(request, HUB_PAGE)


def topics(request):
    response = rendered(request, TOPICS_PAGE)
    if "no-worker" in request.GET:
        response["Content-Security-Policy"] = "worker-src 'none'"
    return response


def example(request, page):
    """The first HTML of a page of the documentation."""
    text = (ROOT / page).read_text()
    return rendered(request, re.search(r"^```html\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1])


def token(request):
    return HttpResponse("a token")


urlpatterns = [
    *demo_patterns,
    path("client", client),
    path("hub-page", hub),
    path("topics-page", topics),
    path("token", token),
    path("events", requests.events),
    path("poll", requests.poll),
    path("endless", endless.view),
    path("example/<path:page>", example),
]
