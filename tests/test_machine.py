"""What stands beside a measurement."""

import platform

from anchorkit import machine


def test_the_device_is_the_processors_model_where_the_system_tells_it(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    assert machine.hardware("cpu")["device"] == platform.machine()
    machine._CPU_INFO.write_text("processor\t: 0\nmodel name\t: Some CPU: fast\nflags\t: avx\n")
    facts = machine.hardware("cpu")
    assert facts["device"] == "Some CPU: fast"
    assert facts["cores"] >= 1 and facts["threads"] >= 1 and facts["torch"] and facts["detectron2"]
