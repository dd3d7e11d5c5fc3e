"""Runs that are cut off in the middle."""

from collections.abc import Callable

import pytest

#: Values of an epoch that differ from run to run.
TIMES = dict.fromkeys(("seconds", "train_seconds", "cpu_seconds"), 0)


def cut_off(monkeypatch: pytest.MonkeyPatch, module: type, call: Callable[[], object]) -> None:
    """``call()``, whose power is cut at the start of the third epoch of a Lightning module."""
    start = module.on_train_epoch_start

    def stop(self):
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        start(self)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="power cut"):
        patch.setattr(module, "on_train_epoch_start", stop)
        call()


def assert_same_epochs(whole: dict, resumed: dict) -> None:
    """Two runs have the same epochs, but for their times."""
    for epoch, other in zip(whole["epochs"], resumed["epochs"], strict=True):
        assert {**epoch, **TIMES} == {**other, **TIMES}
