import importlib.machinery
import itertools
import json
import sys
import types

import pytest

ARGUMENTS = ("--batch-size", 2, "--repeats", 1, "--peak-tflops", 0.5)


def cells_of(output):
    """Return the rows of the last table, without its heading."""
    output = output[output.rindex("| network |") :]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if "|" in line][2:]


def fake_row(name, mode, seconds=2.0):
    """Return what `vs_peers.measure` returns, without the measuring."""
    times = {"cnnjax": seconds, "torch": 2 * seconds}
    return {
        "model": name,
        "mode": mode,
        "image_size": 28,
        "seconds": times,
        "processor_seconds": {},
        "images_per_second": {who: 2 / value for who, value in times.items()},
        "trace": {"cnnjax": 0.5},
        "compile": {"cnnjax": 4.0},
        "memory_bytes": {"cnnjax": 2**21},
        "peak_share": {"cnnjax": 0.25, "torch": 0.125},
        "bandwidth_share": {"cnnjax": 0.5},
        "left_out": {"folded": "there is no batch normalisation to fold"},
    }


@pytest.fixture
def measured(benchmark, monkeypatch):
    """Measure nothing, and return the tasks that were to be measured."""
    vs_peers, tasks = benchmark("vs_peers"), []

    def measure(task, given, devices):
        if task.name == "vgg16":
            raise KeyboardInterrupt
        tasks.append((task.name, "train" if task.train else "inference"))
        return fake_row(*tasks[-1])

    monkeypatch.setattr(vs_peers, "measure", measure)
    monkeypatch.setattr(vs_peers, "measured_copy", lambda: 1e9)
    return tasks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "everyone", "macs"),
    [
        # Multiply-adds of an image, as published; a gradient counts as two passes.
        ("resnet20", "inference", {"cnnjax", "folded", "xla"}, 40.8e6),
        ("lenet5", "train", {"cnnjax", "xla"}, 3 * 0.416e6),
    ],
)
def test_a_network_takes_turns_with_itself_folded_and_with_xla_forms(run, tmp_path, name, mode, everyone, macs):
    code, output, progress = run(
        *("vs_peers", "--models", name, "--mode", mode, "--peers", "folded", "xla", *ARGUMENTS, "--json", "-"),
        *("--csv", tmp_path / "rows.csv"),
    )
    assert code == 0
    (row,) = json.loads(output)
    assert (row["model"], row["mode"], set(row["seconds"])) == (name, mode, everyone)
    assert row["left_out"] == ({} if mode == "inference" else {"folded": "folding is for inference"})
    for what in ("processor_seconds", "images_per_second", "trace", "compile", "memory_bytes", "peak_share"):
        assert set(row[what]) == everyone
        assert min(row[what].values()) > 0
    for who, seconds in row["seconds"].items():
        assert row["images_per_second"][who] * seconds == pytest.approx(2)
        assert row["peak_share"][who] * seconds * 0.5e12 == pytest.approx(2 * 2 * macs, rel=0.02)
    assert f"{name}, {mode}: cnnjax" in progress
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 2


@pytest.mark.slow
def test_reading_is_measured_alone_and_with_the_step(run):
    code, output, _ = run(
        *("vs_peers", "--input", "--models", "resnet20", "--image-size", 32, *ARGUMENTS, "--json", "-")
    )
    assert code == 0
    (row,) = json.loads(output)
    rates = [row[f"{what}_images_per_second"] for what in ("reading", "step", "both")]
    assert min(rates) > 0
    assert row["of_the_step"] == pytest.approx(rates[2] / rates[1])


def test_each_row_is_printed_and_written_and_a_measurement_that_was_cut_off_goes_on(
    run, measured, tmp_path, monkeypatch
):
    flags = ("--models", "alexnet", "resnet18", *ARGUMENTS, "--peers", "cnnjax", "--json", tmp_path / "rows.json")
    with pytest.raises(KeyboardInterrupt):
        run("vs_peers", "--models", "alexnet", "vgg16", "resnet18", *flags[3:])
    assert [(row["model"], row["mode"]) for row in json.loads((tmp_path / "rows.json").read_text())] == measured
    assert measured == [("alexnet", "inference"), ("alexnet", "train")]
    code, output, _ = run("vs_peers", *flags, "--resume", "--plot", tmp_path / "rows.png")
    assert code == 0
    assert measured == list(itertools.product(["alexnet", "resnet18"], ["inference", "train"]))
    rows = cells_of(output)
    assert [row[:3] for row in rows] == [
        [f"`{name}`", mode, who] for name, mode in measured for who in ("cnnjax", "torch")
    ]
    assert rows[0][3:] == ["2000.00", "", "1", "", "0.5", "4.0", "2", "25.0 %", "50 %"]
    assert rows[1][3:] == ["4000.00", "", "0.5", "0.50", "", "", "", "12.5 %", ""]
    assert "ours / torch, inference: 0.50 (geometric mean of 2)" in output
    assert "No folded of alexnet, resnet18: there is no batch normalisation to fold" in output
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    code, _, errors = run("vs_peers", "--models", "lenet5", *flags[3:-2], "--plot", tmp_path / "none.png")
    assert code == 2
    assert "--plot needs a network whose accuracy on ImageNet is published" in errors
    # Rows of other conditions are no part of the same table.
    code, _, errors = run("vs_peers", *flags[:4], 4, *flags[5:], "--resume")
    assert code == 2
    assert "has rows with batch_size 2, and it is 4 now" in errors
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_command_buffer=+convolution")
    code, output, errors = run("vs_peers", *flags, "--resume")
    assert code == 2
    assert "and it is --xla_gpu_enable_command_buffer=+convolution now; take another file" in errors


def test_a_budget_leaves_out_what_would_not_end_in_time(run, measured, tmp_path, benchmark):
    flags = ("--models", "lenet5", "resnet20", *ARGUMENTS, "--peers", "cnnjax", "--json", tmp_path / "rows.json")
    code, _, errors = run("vs_peers", *flags, "--budget", 1e-9)
    assert (code, measured) == (0, [])
    assert "no time was left for lenet5, inference; lenet5, train; resnet20, inference; resnet20, train" in errors
    # 10 arrays of parameters took 20 s, so that 65 take 130 s.
    vs_peers = benchmark("vs_peers")
    budget = vs_peers.Budget(100.0, vs_peers.time.perf_counter())
    budget.note("lenet5", 20.0)
    assert budget.fits("lenet5")
    assert not budget.fits("resnet20")
    assert vs_peers.Budget(None, 0.0).fits("resnet20")


def test_jax_and_pytorch_are_compared_on_the_same_device_or_not_at_all(benchmark):
    conflict = benchmark("vs_peers").conflict
    for agreed in ((None, "cpu", "cpu"), (None, "gpu", "gpu"), ("gpu", "gpu", "gpu"), ("cpu", "cpu", "gpu")):
        assert conflict(*agreed) is None
    for alone in ((None, "cpu", None), ("gpu", "gpu", None), ("tpu", "tpu", None)):
        assert conflict(*alone) is None
    assert "JAX sees a GPU and PyTorch does not" in conflict(None, "gpu", "cpu")
    assert "JAX sees a GPU and PyTorch does not" in conflict("gpu", "gpu", "cpu")
    assert "PyTorch sees a GPU and JAX does not" in conflict(None, "cpu", "gpu")
    assert "--device gpu, and JAX computes on a cpu here" in conflict("gpu", "cpu", "gpu")


@pytest.fixture
def torch(monkeypatch):
    """Install a PyTorch that sees a GPU, and whose torchvision has one network."""
    for name in ("torch", "torchvision"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["torch"].cuda = types.SimpleNamespace(is_available=lambda: True)
    sys.modules["torchvision"].models = types.SimpleNamespace(list_models=lambda: ["alexnet"])


@pytest.mark.usefixtures("torch")
def test_a_gpu_that_pytorch_alone_sees_is_an_error(run):
    code, output, errors = run("vs_peers", "--peers", "torch", "--models", "resnet18")
    assert (code, output) == (2, "")
    assert "PyTorch sees a GPU and JAX does not" in errors.splitlines()[-1]


@pytest.mark.usefixtures("torch")
def test_what_has_no_number_has_a_reason(benchmark):
    contenders, vs_peers = benchmark("contenders"), benchmark("vs_peers")
    task = contenders.Task("lenet5", 2, 28, False, "float32", "gpu")
    for peer in ("folded", "xla", "keras", "torch"):
        assert contenders.missing(peer, task)
    known = contenders.Task("alexnet_owt", 2, 224, False, "float32", "gpu")
    assert contenders.missing("torch.compile", known) is None
    assert "memory" in vs_peers.failed(RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "cnnjax")
    assert vs_peers.failed(RuntimeError("no compiler\nmore"), "torch.compile") == "RuntimeError: no compiler"
    assert vs_peers.failed(RuntimeError("a mistake"), "torch") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "resnet51"], "resnet51"),
        (["--models", "unet"], "'unet' is no classifier"),
        (["--models", "lenet5", "--repeats", 0], "--repeats must be at least 1, got 0"),
        (["--device", "gpu", "--peers", "cnnjax"], "--device gpu, and JAX computes on a cpu here"),
        (["--resume"], "--resume goes on with the file of --json"),
        (["--peak-tflops", 0], "--peak-tflops must be above 0, got 0"),
        (["--parallel", "pmap", "--peers", "xla"], "--parallel pmap is for ours alone"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(run, arguments, message):
    code, _, errors = run("vs_peers", *arguments)
    assert code == 2
    assert message in errors.splitlines()[-1]
