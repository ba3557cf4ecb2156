"""Sentences without places: what a visitor may read of an error that names files of the machine."""

from pathlib import Path

import pytest

from kpop.errors import placeless


@pytest.mark.parametrize(
    "text, told",
    [
        ("/srv/runs is not a folder. Choose another.", "…/runs is not a folder. Choose another."),
        ("The disk of /srv/a/runs/x/checkpoint is full.", "The disk of …/checkpoint is full."),
        ("Model '/home/ann lee/my model/vae' is torn.", "Model '…/vae' is torn."),
        ("(see /srv/a/b.txt, then /srv/a/c)", "(see …/b.txt, then …/c)"),
        ("/compare needs prompt. Write 1/2 or and/or.", "/compare needs prompt. Write 1/2 or and/or."),
        ("Read https://huggingface.co/docs/hub first.", "Read https://huggingface.co/docs/hub first."),
    ],
)
def test_of_absolute_paths_only_the_last_name_is_left(text, told):
    assert placeless(text) == told


def test_what_lies_below_a_named_folder_is_told_whole():
    told = placeless("The disk of /srv/ann lee/runs/x-1/checkpoint is full.", Path("/srv/ann lee/runs/x-1"))
    assert told == "The disk of x-1/checkpoint is full."
