"""What is done for Granian; how its connections end is in `test_endings.py`."""

from __future__ import annotations

import granian._signals

from ws_support.servers.granian import say_goodbye_when_it_stops


def test_a_granian_that_stops_in_another_way_is_left_alone(monkeypatch):
    monkeypatch.delattr(granian._signals, "set_loop_signals")
    say_goodbye_when_it_stops()
    assert not hasattr(granian._signals, "set_loop_signals")
