"""A disk that gets larger, as one of the matrix's operations."""

from __future__ import annotations

from tests.matrix.deeds import DEEDS as OTHERS
from tests.matrix.deeds import SIZE, Deed, Ended, proven, submitted, written
from tests.matrix.stage import Stage


class Grow(Deed):
    """Its disk gets larger, and what is in it stays."""

    name = "grow"

    def before(self, stage: Stage) -> None:
        stage.checkout()
        written(stage)
        stage.facts["size"] = self._size(stage) + (64 << 20)

    def begin(self, stage: Stage) -> str:
        return submitted(stage.client, "disk_resize", size=stage.facts["size"])

    def done(self, stage: Stage, ended: Ended) -> bool:
        return self._size(stage) == int(stage.facts["size"])

    def after(self, stage: Stage) -> None:
        proven(stage, stage.facts["fresh"])
        assert stage.vault.read(SIZE, stage.facts["size"] - SIZE) == bytes(SIZE)
        found = stage.client.finish("disk_check", workspace="work", data=True)["result"]
        assert [each["lost"]["bytes"] for each in found["devices"]] == [0]

    @staticmethod
    def _size(stage: Stage) -> int:
        found = stage.client.finish("disk_info", workspace="work")["result"]["devices"]
        return next(int(each["size"]) for each in found if each["name"] == "system")


DEEDS = (*OTHERS, Grow)
