import importlib.util

import pytest

# A TPU's program, shortened: names, memory spaces and asynchronous pairs as its compiler writes them.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (p0: bf16[8,128], p1: f32[64]) -> (f32[64], bf16[8,128]) {
  %p0 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = f32[64]{0:T(128)} parameter(1)
  %slice-start.1 = ((bf16[8,128]{1,0:T(8,128)(2,1)}), bf16[4,128]{1,0:T(8,128)(2,1)S(1)}, s32[]{:S(2)}) slice-start(%p0)
  %slice-done.1 = bf16[4,128]{1,0:T(8,128)(2,1)S(1)} slice-done(%slice-start.1)
  %copy-start.1 = (f32[64]{0:T(128)S(1)}, f32[64]{0:T(128)}, u32[]{:S(2)}) copy-start(%p1)
  %copy-done.1 = f32[64]{0:T(128)S(1)} copy-done(%copy-start.1)
  %fusion.1 = (f32[64]{0:T(128)S(1)}, bf16[8,128]{1,0:T(8,128)(2,1)}) fusion(%p0, %slice-done.1), kind=kOutput, \
calls=%fused, metadata={op_name="jit(step)/conv1/mul"}
  %gte.0 = f32[64]{0:T(128)S(1)} get-tuple-element(%fusion.1), index=0
  %gte.1 = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%fusion.1), index=1
  %all-reduce.1 = (f32[64]{0:T(128)}, f32[1,32]{1,0}) all-reduce(%gte.0, %p1), channel_id=1, to_apply=%add
  %all-reduce-start.2 = f32[16]{0} all-reduce-start(%p1), to_apply=%add
  %all-reduce-done.2 = f32[16]{0} all-reduce-done(%all-reduce-start.2)
  %all-gather-start.3 = (f32[4]{0}, f32[16]{0}) all-gather-start(%p1), dimensions={0}
  %all-gather-done.3 = f32[16]{0} all-gather-done(%all-gather-start.3)
  %gte.2 = f32[64]{0:T(128)} get-tuple-element(%all-reduce.1), index=0
  ROOT %tuple = (f32[64]{0:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%gte.2, %gte.1)
}
"""


@pytest.fixture
def compile_for(benchmark):
    return benchmark("compile_for")


def test_sizes_of_types(compile_for):
    assert compile_for.shape_bytes("bf16[8,128]{1,0:T(8,128)(2,1)}") == 2048
    assert compile_for.shape_bytes("(f32[], s32[2]{0}, /*index=2*/pred[5]{0:S(2)}, token[])") == 4 + 8 + 5


def test_collectives_are_counted_once_with_what_they_return(compile_for):
    assert compile_for.count_collectives(PROGRAM) == {
        "all-reduce": {"count": 2, "bytes": 4 * (64 + 32 + 16)},
        "all-gather": {"count": 1, "bytes": 4 * 16},
    }


def test_traffic_is_what_crosses_between_chip_and_memory(compile_for):
    rows = {row["name"]: row for row in compile_for.memory_traffic(PROGRAM)}
    assert (rows["slice-start.1"]["read"], rows["slice-start.1"]["written"]) == (4 * 128 * 2, 0)
    assert (rows["copy-start.1"]["read"], rows["copy-start.1"]["written"]) == (64 * 4, 0)
    # It reads p0 from memory, the slice from the chip, and leaves its first result on the chip.
    assert (rows["fusion.1"]["read"], rows["fusion.1"]["written"]) == (2048, 2048)
    assert rows["fusion.1"]["source"] == "jit(step)/conv1/mul"
    assert "p0" not in rows
    assert next(iter(rows)) == "fusion.1"


def test_targets(compile_for):
    target = compile_for.Target.parse("v5e:4x4")
    assert (target.shape, target.chip.kind, target.is_tpu) == ((4, 4), "TPU v5 lite", True)
    target = compile_for.Target.parse("h100:8")
    assert (target.shape, target.is_tpu) == ((8,), False)
    assert compile_for.Target.parse("a100").shape == (1,)
    for wrong in ("v5e", "v5e:0x2", "v9:2x2", "h100:2x2", ""):
        with pytest.raises(compile_for.TargetError, match=r"unknown target .* v5e:2x2.* h100"):
            compile_for.Target.parse(wrong)


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "tpu"), ("h100", "cuda")])
def test_a_missing_plugin_is_named_with_its_extra(compile_for, monkeypatch, name, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(compile_for.TargetError, match=rf'not installed: pip install -e "\.\[{extra}\]"'):
        compile_for.Target.parse(name).topology()


def test_every_gpu_can_be_described_to_the_compiler(benchmark):
    devices = benchmark("devices")
    assert devices.GPUS.keys() == devices.PROCESSORS.keys()
    text = devices.PROCESSORS["h100"].target_config(devices.GPUS["h100"])
    assert "major: 9 minor: 0" in text
    assert text.count("{") == text.count("}") == 3


def test_the_roofline_is_the_slower_of_arithmetic_and_memory(benchmark):
    devices = benchmark("devices")
    roofline = devices.Roofline.of(flops=197e12, num_bytes=2 * 819e9, peak=197e12, bandwidth=819e9)
    assert (roofline.compute, roofline.memory, roofline.seconds, roofline.bound) == (1, 2, 2, "memory")
    assert devices.Roofline(3, 2).bound == "compute"
    v5e = devices.find("TPU v5 lite")
    assert v5e.peak("bfloat16") == 197e12
    assert v5e.memory == 16 * 2**30
    assert devices.find("cpu") is None


def test_wrong_arguments_are_refused_in_one_line(run):
    for arguments, message in (
        (["--target", "v9:2x2"], "unknown target 'v9:2x2'; there are"),
        (["--model", "unet"], "unet is a network for segmentation; take one whose task is classification"),
        (["--per-device-batch", "0"], "must be a whole number of at least 1, got '0'"),
        (["--set", "groups"], "must be NAME=VALUE, got 'groups'"),
    ):
        code, _, errors = run("compile_for", *arguments)
        assert code == 2
        assert message in errors.splitlines()[-1]
