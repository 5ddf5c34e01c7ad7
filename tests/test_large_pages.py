"""The allocator's settings are of a whole process, so they are tried in others."""

import json
import subprocess
import sys

import pytest

from cnnjax import large_pages

# Without the package around it, whose imports would take longer than this test.
CODE = """
import importlib.util, json, pathlib, re, resource
spec = importlib.util.spec_from_file_location("large_pages", {path!r})
large_pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(large_pages)
reasons = [large_pages.use_large_pages(), large_pages.use_large_pages()]
size = 64 << 20
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    data = bytearray(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, second = faults(), faults()
heaps = re.findall(r"\\[heap\\](?:.*\\n)*?VmFlags: (.*)", pathlib.Path("/proc/self/smaps").read_text())
print(json.dumps([reasons, first, second, any("hg" in flags.split() for flags in heaps)]))
"""


def test_memory_is_mapped_once_and_advised_to_be_large_where_that_can_be():
    code = CODE.format(path=large_pages.__file__)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    (reason, again), first, second, advised = json.loads(done.stdout)
    assert again == reason
    if reason is None:
        # 64 MiB are 16,384 small pages, or 32 large ones.
        assert advised
        assert first < 16_384
        assert second < 100


@pytest.mark.parametrize(
    ("chosen", "reason"), [("always madvise [never]", "off, see"), (None, "need Linux with glibc")]
)
def test_why_there_are_no_large_pages_is_told(chosen, reason, tmp_path, monkeypatch):
    kernel = tmp_path / "enabled"
    if chosen is not None:
        kernel.write_text(chosen)
    monkeypatch.setattr(large_pages, "_KERNEL", kernel)
    assert reason in large_pages.use_large_pages.__wrapped__()
