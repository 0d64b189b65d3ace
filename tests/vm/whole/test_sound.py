"""A tone that an application in the guest plays is heard on the person's sound system; where the policy forbids it, it is not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from demo.stage import PERSON
from tests.vm.test_display import loudest, null_sink
from tests.vm.whole.conftest import Whole
from twofold.model.policy import Policy

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
__all__ = ["null_sink"]
TONE = "twofold-probe-tone"


def test_a_tone_in_the_guest_is_heard(whole: Whole, null_sink: str, tmp_path: Path) -> None:
    with whole.desk(1280, 800, editor=False, PULSE_SERVER=null_sink, HOME=str(tmp_path)) as desk:
        desk.to_work()
        assert loudest(null_sink, 0.6) == (0.0, 0.0), "something sounds before anything was played"
        whole.launch(TONE)
        heard = max((loudest(null_sink, 0.7) for _ in range(6)), key=lambda pair: pair[1])
        print(f"\nheard {heard[0]:.0f} Hz, {heard[1]:.0%} of the energy")
        assert abs(heard[0] - 1000) < 15
        assert heard[1] > 0.5
        time.sleep(3)


def test_where_the_policy_forbids_sound_there_is_silence(whole: Whole, null_sink: str, tmp_path: Path) -> None:
    whole.admin.add_grant(PERSON, "business", "hush", "Hush", "green", Policy(sound_out=False))
    whole.client.finish("checkout", workspace="hush")
    whole.client.finish("start", workspace="hush")
    try:
        whole.up("hush", "session_up")
        with whole.desk(1280, 800, editor=False, PULSE_SERVER=null_sink, HOME=str(tmp_path)) as desk:
            desk.to_work()
            desk.hands.key("2", "Control_L", "Alt_L")
            desk.wait_said("workspace", "hush", 10)
            desk.wait_said("live", True, 20)
            time.sleep(4)  # by then the guest has loaded what sound it has
            whole.client.call("launch", workspace="hush", app=TONE)
            heard = [loudest(null_sink, 0.7) for _ in range(5)]
            assert heard == [(0.0, 0.0)] * 5, f"the policy forbids sound and it was heard: {heard}"
    finally:
        whole.client.finish("off", workspace="hush")
        whole.client.finish("remove", workspace="hush", yes=True)
