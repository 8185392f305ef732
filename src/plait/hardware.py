"""What the operating system says about this machine: processor, cores, memory, compiler. No torch here."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "sve", "bf16", "asimdhp")


def compiler(kind: str) -> tuple[bool, str]:
    """Whether torch.compile can work, and what it would use or lacks."""
    if kind == "mps":
        return False, "torch.compile for Apple GPUs is a prototype"
    if kind == "cuda":
        found = find_spec("triton") is not None
        return found, "triton is installed" if found else "triton is not installed"
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    path = next(filter(None, map(shutil.which, wanted)), None)
    if path is None:
        return False, f"no C++ compiler was found (looked for {', '.join(wanted)})"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return False, "Python's C headers are not installed (for example Debian's python3-dev)"
    return True, f"{Path(path).name} is installed"


def processor() -> str:
    """The processor's marketing name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        with suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
            return answer.stdout.strip()
    return platform.processor() or platform.machine()


def flags() -> list[str]:
    """Those of FLAGS that the processor has."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                present = set(line.partition(":")[2].split())
                return [flag for flag in FLAGS if flag in present]
    return []


def processors() -> set[int]:
    """Logical processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def threads() -> int:
    """OMP_NUM_THREADS, else the physical cores this process may use, within a container's quota."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    cores = processors()
    siblings = {_siblings(core) for core in cores}
    return max(1, min(len(siblings), _quota() or len(siblings)))


def _siblings(core: int) -> str:
    """A name shared by the logical processors of one physical core."""
    with suppress(OSError):
        folder = Path(f"/sys/devices/system/cpu/cpu{core}/topology")
        return (folder / "thread_siblings_list").read_text(encoding="ascii").strip()
    return str(core)


def _quota() -> int | None:
    """Whole processors granted by the container (cgroup version 2), rounded up."""
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return -(-int(quota) // int(period))
    return None


def memory() -> int:
    """Bytes of main memory, or what the container (cgroup version 2) grants."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return total
