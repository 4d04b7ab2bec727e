"""`python -m fastloss`: info tells what runs, selftest finds wrong kernels, records the right."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastloss import _library
from fastloss.__main__ import main
from fastloss._cli import selftest
from fastloss._library import OPS
from fastloss.testing import samples


@pytest.fixture
def few_samples(monkeypatch):
    """A few samples per stem, those with several gradients and unreduced values among them."""

    def few(stem):
        small = samples(stem, "small")
        return small[:: max(1, min(4, len(small) // 4))]

    monkeypatch.setattr(selftest, "samples", few)


def test_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "fastloss", "info", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == ""
    assert list(json.loads(done.stdout)["ops"]) == list(OPS)


def test_info_is_the_same_as_text(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for name, on in _library.backends().items():
        (line,) = [x for x in text.splitlines() if x.split()[:1] == [name]]
        assert on["cpu"] in line and on["cuda"] in line
    assert torch.__version__ in text


def test_info_gives_reasons(monkeypatch, capsys):
    monkeypatch.setitem(_library.UNAVAILABLE, "cpp", "no compiler was found")
    monkeypatch.setattr(_library, "_has_kernel", lambda op, key: False)
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("_C.so" in x and "not loaded: no compiler was found" in x for x in lines)
    assert any(x.split()[:1] == ["box_loss"] and "no compiler was found" in x for x in lines)


def test_info_shows_gpu_runs(monkeypatch, capsys):
    run = {"gpu": "Some GPU", "commit": "0123456789ab"}
    monkeypatch.setattr(_library, "gpu_runs", lambda: {"box_loss": run})
    monkeypatch.setattr(_library, "_has_kernel", lambda op, key: True)
    main(["info"])
    text = capsys.readouterr().out
    assert "(run on Some GPU at 0123456789ab)" in text and "(never run on a GPU)" in text


@pytest.mark.parametrize("quick", (True, False))
def test_selftest_passes(quick, few_samples, capsys):
    assert main(["selftest", "--device", "cpu", *(["--quick"] if quick else [])]) == 0
    lines = capsys.readouterr().out.splitlines()
    for stem in selftest.stems():
        (line,) = [x for x in lines if x.split()[:1] == [stem]]
        checks = len(selftest.samples(stem)) * (1 if quick else 4)
        assert line.split()[-1] == "ok" and str(checks) in line.split()
    assert "selftest passed" in lines[-1]


def test_selftest_ignores_the_reference_backend(few_samples, capsys):
    with _library.backend("reference"):
        assert main(["selftest", "--device", "cpu", "--quick"]) == 0


class Spoiled(TorchDispatchMode):
    """Passes the gradients that the dispatched box_loss_backward gives through a function; the
    reference, which is compared with, stays right."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.name().partition(".")[0]
        return tuple(map(self.spoil, result)) if name == "fastloss::box_loss_backward" else result


def _not_launched(gradient):
    raise RuntimeError("cannot launch\nmore")


def _missed_element(gradient):
    gradient = gradient.clone()
    gradient.flatten()[-1:].fill_(torch.nan)
    return gradient


_bits = itertools.count()

SPOILED = {
    "wrong sign": (torch.neg, "gradient of pred: error"),
    "missed element": (_missed_element, "gradient of pred: got nan"),
    "no launch": (_not_launched, "RuntimeError: cannot launch"),
    "other bits": (lambda x: x * (1 + next(_bits) % 5 * 2e-7), "a second run gave other bits"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_selftest_lists_what_is_wrong(case, few_samples, capsys):
    spoil, message = SPOILED[case]
    with Spoiled(spoil):
        assert main(["selftest", "--device", "cpu", "--quick"]) == 1
    lines = capsys.readouterr().out.splitlines()
    failed = [x for x in lines if x.startswith("FAILED")]
    assert failed and all(x.startswith("FAILED box_loss on cpu: ") for x in failed)
    assert any("float32" in x and message in x for x in failed), failed
    assert "selftest failed" in lines[-1]


def test_selftest_misses_no_op(monkeypatch, capsys):
    monkeypatch.setattr(selftest, "samples", lambda stem: samples(stem)[: stem != "box_loss"])
    assert main(["selftest", "--device", "cpu", "--quick"]) == 1
    assert "FAILED box_loss_with_gradient on cpu: no check ran it" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("options", (["--device", "cuda"], ["--record", "runs.json"]))
def test_selftest_refuses_a_missing_gpu(options, capsys):
    with pytest.raises(SystemExit) as status:
        main(["selftest", *options])
    assert status.value.code == 2 and "CUDA device" in capsys.readouterr().err


def test_record_holds_the_kernels_that_passed(tmp_path, monkeypatch):
    """Other ops keep their entries; ops without CUDA kernel get none, those that failed lose it."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    runs = {"cuda": "Triton"}, {"cuda": "Triton"}, {"cuda": "reference (no Triton: no kernel)"}
    monkeypatch.setattr(_library, "backends", lambda: dict(zip("abc", runs)))
    path = tmp_path / "runs.json"
    path.write_text(json.dumps({"b": {"gpu": "old"}, "d": {"gpu": "old"}}))
    selftest.save(path, {"stem": {"cuda": selftest.Tally(ran=set("abc"), failed={"b"})}}, "0123abc")
    record = json.loads(path.read_text())
    assert set(record) == {"a", "d"} and record["d"] == {"gpu": "old"}
    assert set(record["a"]) == {"gpu", "commit", "date", "torch", "triton"}
    assert record["a"]["gpu"] == "Some GPU" and record["a"]["commit"] == "0123abc"


@pytest.mark.gpu
def test_selftest_on_a_gpu(tmp_path, few_samples, capsys):
    path = tmp_path / "runs.json"
    assert main(["selftest", "--device", "cuda", "--record", str(path)]) == 0
    assert set(json.loads(path.read_text())) == set(OPS)
