"""The detector example trains, prints and draws; its data are checked before they are used."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tifffile", reason="the example needs fastloss[examples]")
pytest.importorskip("matplotlib", reason="the example needs fastloss[examples]")
import example_data  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PNG = b"\x89PNG"
losses = pytest.mark.parametrize("loss", ("cells", "uotod-hungarian", "uotod-sinkhorn"))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    """The example's modules, imported as the script imports them."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import train_detector

    yield train_detector
    for name in [
        n for n in sys.modules if n.split(".")[0] in ("common", "detector", "train_detector")
    ]:
        del sys.modules[name]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return example_data.write(tmp_path / "data")


@losses
def test_script_ends_with_table_and_pictures(loss: str, picture: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    command = [sys.executable, str(EXAMPLES / "train_detector.py"), "--seeds=1", "--steps=3"]
    command += [f"--data={picture}", f"--output={output}", "--no-bench", f"--loss={loss}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("held-out F1@0.5", "share of the loss", "largest difference", "fastloss on cpu:"):
        assert text in done.stdout
    names = {"predictions", "losses"}
    if loss != "cells":
        names = {f"{name}-{loss}" for name in (*names, "matching")}
    assert {path.stem for path in output.iterdir()} == names
    for path in output.iterdir():
        assert path.read_bytes().startswith(PNG)


def test_output_without_rich(example, picture: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("common.show.rich", None)
    threads = torch.get_num_threads()
    try:
        arguments = ["--seeds=1", "--steps=2", f"--data={picture}", f"--output={tmp_path}"]
        assert example.main([*arguments, "--no-bench"]) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "seed 0 2/2" in printed
    assert "largest difference of the loss curves" in printed


@pytest.mark.gpu
def test_runs_on_a_gpu(example, picture: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--seeds=1", "--steps=2", f"--data={picture}", f"--output={tmp_path}"]
    assert example.main([*arguments, "--device=cuda", "--threads=1", "--no-bench"]) == 0
    assert "fastloss on cuda:" in capsys.readouterr().out


@losses
def test_both_variants_compute_the_same_loss(loss: str, example, picture: Path) -> None:
    train_part, _ = example.load(picture)
    targets = example.of_cells if loss == "cells" else example.of_images
    (images, target), *_ = example.batches(train_part, 1, 2, 0, torch.device("cpu"), targets)
    torch.manual_seed(0)
    outputs = [output.detach() for output in example.Detector()(images)]
    results = []
    for variant in example.variants(loss).values():
        leaves = [output.clone().requires_grad_() for output in outputs]
        value = variant(*leaves, target)
        value.backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


def test_targets_are_the_boxes_of_the_mask(example, picture: Path) -> None:
    from detector.data import BACKGROUND, boxes_of

    train_part, held_out = example.load(picture)
    assert train_part.image.shape == (128, 144) and held_out.image.shape == (128, 48)
    assert boxes_of(np.pad(np.full((7, 9), 5), ((2, 3), (4, 1)))).tolist() == [[4, 2, 13, 9]]
    _, target = example.batches(train_part, 1, 2, 0, torch.device("cpu"), example.of_cells)[0]
    inside = target.weights > 0
    assert inside.any() and target.count == inside.sum()
    assert torch.equal(inside, target.labels != BACKGROUND)
    assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()


def test_f1_counts_each_nucleus_once(example) -> None:
    from detector.evaluate import _iou, _match

    truth = np.float32([[0, 0, 10, 10], [20, 0, 30, 10]])
    found = np.float32([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 12], [50, 50, 60, 60]])
    hits, matched = _match(_iou(found, truth))
    assert hits.tolist() == [True, False, True, False]
    assert matched.tolist() == [True, True]


def test_damaged_download_is_refused(example, tmp_path: Path) -> None:
    from common.download import DataError, unpack

    wheel = tmp_path / "stardist.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("stardist/data/images/img2d.tif", b"not the picture")
        archive.writestr("stardist/data/images/mask2d.tif", b"not the mask")
    with pytest.raises(DataError, match="has sha256 [0-9a-f]{64}, expected 2316c0"):
        unpack(wheel, tmp_path)
    assert not (tmp_path / "img2d.tif").exists()


def test_impossible_download_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    # pip without an index and without links of its own finds nothing, network or not.
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    environment.pop("PIP_FIND_LINKS", None)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "train_detector.py"), f"--data={folder}"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 1
    assert "cannot download stardist==0.9.2" in done.stderr
    assert f"put img2d.tif and mask2d.tif into {folder}" in done.stderr
    assert list(folder.iterdir()) == []
