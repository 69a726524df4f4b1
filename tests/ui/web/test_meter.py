"""The meter of processor, memory and GPU."""

import pytest

from ui.web.server import meter as _meter
from ui.web.server.meter import Load, Meter, meter_words, read_gpu


def test_the_load_in_words() -> None:
    load = Load(12.4, 3 << 30, 16 << 30)
    assert meter_words(load) == "CPU 12 % · memory 3.0 of 16.0 GB"
    gpu = read_gpu("97, 1024, 24576\n5, 0, 8192\n")
    assert gpu == (97.0, 1 << 30, 24 << 30)
    said = "CPU 12 % · GPU 97 %, 1.0 of 24.0 GB · memory 3.0 of 16.0 GB"
    assert meter_words(Load(12.4, 3 << 30, 16 << 30, gpu)) == said


def test_the_machine_is_looked_at_no_oftener_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    real = _meter._measure
    monkeypatch.setattr(_meter, "_measure", lambda gpu: looks.append(gpu) or real(gpu))
    one = Meter()
    first = one.load()
    assert one.load() is first and len(looks) == 2  # when it is made, and at the first question
    assert 0 < first.used < first.memory and 0 <= first.processor <= 100 * 1024
    one._measured = -_meter.EVERY
    one.load()
    assert len(looks) == 3


def test_a_gpu_that_does_not_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Meter()
    for tool in ("/no/such/tool", "true"):  # which says nothing
        one._ask_gpu(tool)
        assert one.load().gpu is None
