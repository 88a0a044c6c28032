"""Compiled networks compute what others do, under the same names."""

import os
import shutil

import pytest
import torch

from anchorkit.config import load_config
from anchorkit.errors import UserError
from anchorkit.trainer import Trainer

COMPILER = os.environ.get("CXX", "g++")
needs_compiler = pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"no C++ compiler {COMPILER!r} on this machine"
)


def classifier(*overrides):
    overrides = ["MODEL.NUM_CLASSES", "5", "MODEL.DEVICE", "cpu", *overrides]
    cfg = load_config("configs/quick/oat_digits.yaml", overrides)
    torch.manual_seed(0)
    return Trainer.build_model(cfg)


@needs_compiler
def test_a_compiled_network_has_the_outputs_and_the_gradients_of_another(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain, compiled = classifier(), classifier("MODEL.COMPILE", "True")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    images = torch.rand(4, 1, 16, 16)
    for model in (plain, compiled):
        model.head(model.features(images)).square().sum().backward()
    gradients = zip(plain.parameters(), compiled.parameters(), strict=True)
    for expected, got in gradients:
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-4, atol=1e-5)
    assert any(tmp_path.rglob("*.cpp")), "nothing was compiled"


def test_without_a_compiler_the_key_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"MODEL.COMPILE needs a C\+\+ compiler.*no-such-compiler"):
        classifier("MODEL.COMPILE", "True")
