"""How the page's events hang together, as the browser is told it."""

from collections import Counter

from kpop.ui.app import build_ui


def test_no_two_listeners_of_one_event_wait_for_their_turn(tmp_path, shared_model):
    # Each that has waited would repeat the event for both, in turns and for ever (gradio 6.31).
    dependencies = build_ui(tmp_path, shared_model, "cpu").get_config_file()["dependencies"]
    waiting = Counter(
        (component, event)
        for one in dependencies
        if one["trigger_mode"] == "always_last"
        for component, event in one["targets"]
        if component is not None
    )
    assert len(waiting) > 3  # or the line below says nothing
    assert [event for event, count in waiting.items() if count > 1] == []
