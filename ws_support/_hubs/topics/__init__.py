"""Topics for the clients of hubs: what is behind `TopicsHub`. docs/reference/topics-hub.md has the
contract."""
