"""The segmentation example trains, prints and draws, and its scores and curves are right."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tifffile", reason="the example needs fastloss[examples]")
pytest.importorskip("matplotlib", reason="the example needs fastloss[examples]")
import example_data  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PNG = b"\x89PNG"
PICTURES = ("segmentation.png", "segmentation_losses.png", "lovasz_and_ohem.png")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    """The example's modules, imported as the script imports them."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import train_segmenter

    yield train_segmenter
    ours = ("common", "segmenter", "train_segmenter")
    for name in [n for n in sys.modules if n.split(".")[0] in ours]:
        del sys.modules[name]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return example_data.write(tmp_path / "data")


def test_script_ends_with_tables_and_pictures(picture: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    command = [sys.executable, str(EXAMPLES / "train_segmenter.py"), "--seeds=2", "--steps=2"]
    command += [f"--data={picture}", f"--output={output}", "--no-bench"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("OHEM", "held-out Dice", "held-out border F1", "share of the loss", "peak memory"):
        assert text in done.stdout
    for name in PICTURES:
        assert (output / name).read_bytes().startswith(PNG)


def test_output_without_rich(example, picture: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("common.show.rich", None)
    threads = torch.get_num_threads()
    try:
        arguments = ["--seeds=1", "--steps=1", f"--data={picture}", f"--output={tmp_path}"]
        assert example.main([*arguments, "--no-bench"]) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "seed 0 1/1" in printed
    assert printed.count("largest difference of the loss curves") == 2


@pytest.mark.gpu
def test_runs_on_a_gpu(example, picture: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--seeds=1", "--steps=2", f"--data={picture}", f"--output={tmp_path}"]
    assert example.main([*arguments, "--device=cuda", "--threads=1", "--no-bench"]) == 0
    assert "fastloss on cuda:" in capsys.readouterr().out


@pytest.mark.parametrize("trained", [False, True], ids=["first step", "later"])
@pytest.mark.parametrize("group", [0, 1], ids=["four losses", "hard pixels"])
def test_both_variants_compute_the_same_loss(example, picture: Path, group, trained) -> None:
    train_part, _ = example.load(picture)
    (images, target), *_ = example.batches(train_part, 1, 2, 0, torch.device("cpu"))
    torch.manual_seed(0)
    logits = example.UNet()(images)[0].detach()
    if trained:  # surer of the true class, not everywhere: few pixels are hard
        certain = 3 * torch.rand(target.shape)[:, None]
        logits += certain * torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    results = []
    for losses in list(example.VARIANTS.values())[group].values():
        leaf = logits.clone().requires_grad_()
        loss = losses(leaf, target)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-8)


def test_classes_of_a_mask(example) -> None:
    from segmenter.data import class_map

    instances = np.zeros((9, 14), dtype=np.int64)
    instances[1:8, 2:9] = 1  # a square nucleus of 7 pixels a side
    instances[1:8, 9:] = 2  # touches it, and leaves the picture on the right
    b, i = 2, 1
    square = [b, b, i, i, i, b, b]
    expected = np.zeros((9, 14), dtype=np.int64)
    expected[[1, 2, 6, 7], 2:] = b
    expected[3:6, 2:9] = square
    expected[3:6, 9:] = [b, b, i, i, i]
    assert class_map(instances).tolist() == expected.tolist()


def test_batches_are_squares_of_the_training_part(example, picture: Path) -> None:
    train_part, held_out = example.load(picture)
    assert train_part.classes.shape == (128, 144) and held_out.classes.shape == (128, 48)
    assert set(np.unique(train_part.classes)) == {0, 1, 2}
    images, target = example.batches(train_part, 1, 3, 0, torch.device("cpu"))[0]
    assert images.shape == (3, 1, 64, 64) and target.shape == (3, 64, 64)
    # Nuclei are bright: the classes were turned together with the image.
    assert images[:, 0][target == 1].min() > images[:, 0][target == 0].max()


def test_scores_by_hand(example) -> None:
    from segmenter.evaluate import boundary_f1, mean_dice

    truth, answer = np.zeros((2, 8, 8), dtype=np.int64)
    truth[2, :], answer[4, :] = 2, 2  # two pixels beside the true border
    assert boundary_f1(answer, truth) == 1.0
    assert mean_dice(answer, truth) == pytest.approx((2 * 48 / 112 + 1 + 0) / 3)
    answer[4, :4] = 0  # half of it found, (2, 0), (2, 1), (2, 2) and (2, 3) are too far to the left
    assert boundary_f1(answer, truth) == pytest.approx(2 * 1 * 0.5 / 1.5)
    answer[7, :4] = 2  # and as many that are wrong
    assert boundary_f1(answer, truth) == pytest.approx(0.5)
    assert boundary_f1(np.zeros_like(truth), truth) == 0.0


def test_the_area_of_the_curve_is_the_loss(example) -> None:
    from segmenter.data import Labelled
    from segmenter.inside import jaccard_curves

    random = np.random.default_rng(0)
    image = random.random((8, 12), dtype=np.float32)
    labelled = Labelled(image, random.integers(0, 3, (8, 12)))
    torch.manual_seed(0)
    model = example.UNet()
    for curve, c in zip(jaccard_curves(model, labelled), range(3), strict=True):
        assert curve.area == pytest.approx(curve.loss, rel=1e-6)
        p = model(torch.from_numpy(image)[None, None])[0].softmax(1)[0, c].detach().numpy()
        wrong = np.abs((labelled.classes == c) - p) > 0.5
        true, found = labelled.classes == c, (labelled.classes == c) ^ wrong
        assert curve.at(0.5) == pytest.approx(1 - (true & found).sum() / (true | found).sum())
        assert curve.at(0.0) == 1.0


def test_hard_pixels_are_those_of_the_loss(example) -> None:
    """The gradient is not zero where the picture says that a pixel is kept."""
    from segmenter.plain_losses import hard_pixels

    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 3, 8, 8, generator=g)
    target = torch.randint(0, 3, (2, 8, 8), generator=g)
    for options in ({"thresh": 0.3, "min_kept": 10}, {"thresh": 0.01, "min_kept": 30}):
        leaf = logits.clone().requires_grad_()
        example.fused.ohem_cross_entropy(leaf, target, **options).backward()
        kept = hard_pixels(logits, target, **options)
        assert torch.equal(leaf.grad.abs().sum(1) > 0, kept)
        assert kept.sum() >= options["min_kept"]


def test_workloads_are_in_the_benchmark(example) -> None:
    import bench

    assert set(example.WORKLOADS) <= bench.WORKLOADS.keys()


def test_network_is_small(example) -> None:
    assert 40_000 < sum(p.numel() for p in example.UNet().parameters()) < 60_000
