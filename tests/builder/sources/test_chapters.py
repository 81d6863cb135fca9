from pathlib import Path

import pytest

from trajectory_builder.sources import chapters


def names(*files):
    return [tuple(path.name for path in shot) for shot in chapters.shots(map(Path, files))]


def test_old_chapters_of_a_shot_are_found():
    assert names("GP020123.MP4", "GOPR0123.MP4", "GP010123.MP4") == [
        ("GOPR0123.MP4", "GP010123.MP4", "GP020123.MP4")
    ]


@pytest.mark.parametrize("family", ["GH", "GX"])
def test_new_chapters_of_a_shot_are_found(family):
    assert names(f"{family}020123.MP4", f"{family}010123.MP4") == [
        (f"{family}010123.MP4", f"{family}020123.MP4")
    ]


def test_other_shots_stay_apart():
    assert len(names("GX010123.MP4", "GX010124.MP4")) == 2


def test_cards_of_two_cameras_stay_apart():
    assert len(names("one/GX010123.MP4", "two/GX020123.MP4")) == 2


def test_other_names_stand_alone():
    assert names("holiday.mp4", "holiday2.mp4") == [("holiday.mp4",), ("holiday2.mp4",)]
