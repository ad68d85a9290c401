"""Threads, memory pages and flags of runs and benchmarks and, by the Makefile, of Lab and tests;
and the machine that they ran on.
"""

import contextlib
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

VARIABLES = {
    "NPROC": "2",  # float results depend on the number of threads
    # XLA gives its buffers back after every step: with small pages a small step on CPU takes 1.4
    # times as long (LOG.md). Huge pages where the system has them; ignored where there is no glibc.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    # What was compiled once is read from there: the second start of a notebook takes half the time.
    "JAX_COMPILATION_CACHE_DIR": str(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vplib" / "compiled"
    ),
    "JAX_COMPILATION_CACHE_MAX_SIZE": "2000000000",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
}
JAXLIB = tuple(map(int, version("jaxlib").split(".")[:2]))
# XLA ends a program over a flag that it does not know, as jaxlib 0.7 does not know the second one.
if platform.machine() == "x86_64" and JAXLIB >= (0, 9):
    # The same bits on any such processor (LOG.md): what XLA compiles depends neither on the width
    # of its vectors nor on its approximate roots, its libraries' kernels neither.
    PINS = {
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2 --xla_cpu_enable_platform_dependent_math=false",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
else:
    PINS = {}
VARIABLES |= PINS
# Keys of the configuration that change how fast a run is, what memory it takes and what it saves on
# the way, never what it computes: they do not tell runs apart, so one that was killed for want of
# memory goes on with less.
FREE = (
    "data.memory",
    "hardware.platform",
    "hardware.threads",
    "hardware.workers",
    "optim.checkpoint_every",
    "optim.tensorboard",
)


def prepare(*, pinned: bool = True) -> None:
    """Set what is not set; without `pinned` not the instruction set. Only processes started
    afterwards see all of it.
    """
    for name, value in (VARIABLES if pinned else unpinned(VARIABLES)).items():
        os.environ.setdefault(name, value)


def unpinned(variables: Mapping[str, str]) -> dict[str, str]:
    """`variables` without the instruction set that `prepare` chose; another choice stays."""
    return {name: value for name, value in variables.items() if PINS.get(name) != value}


def restart(*, pinned: bool = True) -> None:
    """Run this program again from its start, with the missing variables set, as `prepare` sets
    them; return if none is missing.
    """
    if (VARIABLES if pinned else unpinned(VARIABLES)).keys() - os.environ.keys():
        prepare(pinned=pinned)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Turn what JAX says when a device has too little memory into a MemoryError of one sentence,
    `advice` its end.
    """
    try:
        yield
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        asked = re.search(r"allocat\w+ ([\d.]+ ?[KMGT]?i?B|\d+ bytes)", str(error))
        size = f" ({asked[1]} more were asked for)" if asked else ""
        raise MemoryError(f"the device's memory is too small{size}: {advice}") from error


def write_any_letter() -> None:
    """Let the terminal get escapes for letters that its locale cannot write."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def ending_with_us(group: int) -> Iterator[None]:
    """While inside, the process group `group` ends when this process does, `kill -9` included.

    On the way out, what is left of the group is killed.
    """
    if not hasattr(os, "killpg"):  # Windows: there a kernel outlives a runner that is killed
        yield
        return
    guard = subprocess.Popen(  # reads until this process lets go of the pipe
        ["sh", "-c", 'cat; kill -s KILL -- "-$1"', "sh", str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        guard.kill()
        guard.communicate()


def end_with_parent() -> None:
    """End this process, and what `ending_with_us` holds, within a second of its parent's end.

    For commands that make or DVC started: killed alone, these leave their children running.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def machine() -> dict[str, str]:
    """What the bits of a float result may depend on beside the code, each as text.

    The processor, its instruction sets and the caches of a core, threads, settings, Python and the
    packages that compute. Instruction sets and caches are empty where the system does not tell.
    """
    told, caches = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu/cpu0/cache")
    text = told.read_text(encoding="utf-8") if told.exists() else ""
    cpu = dict(re.findall(r"^([^\t:]+?)\s*: (.*)$", text.partition("\n\n")[0], re.MULTILINE))
    words = re.compile(r"sse4_2|f16c|fma|avx\w*|amx\w*|asimd\w*|sve\w*|i8mm|bf16")
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    sizes = {}
    for file in sorted(caches.glob("index*/size")):  # some systems tell no size
        level, kind, size = (
            file.with_name(name).read_text(encoding="utf-8").strip()
            for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            sizes[f"L{level}{'d' if kind == 'Data' else ''}"] = size
    return {
        "processor": _processor(cpu),
        "flags": " ".join(sorted(flag for flag in flags if words.fullmatch(flag))),
        "caches": ", ".join(f"{level} {size}" for level, size in sizes.items()),
        "threads": os.environ.get("NPROC") or str(os.cpu_count()),
        "settings": " ".join(
            os.environ.get(key, "") for key in ("XLA_FLAGS", "ONEDNN_MAX_CPU_ISA")
        ),
        "python": ".".join(platform.python_version_tuple()[:2]),
    } | {name: version(name) for name in ("jax", "jaxlib", "flax", "numpy")}


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16 that XLA may use here."""
    return _has_bfloat16() and "xla_cpu_max_isa" not in os.environ.get("XLA_FLAGS", "")


def _has_bfloat16() -> bool:
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(machine()["flags"].split())


def lacking(platform: str, dtype: str) -> str:
    """What hardware.platform and hardware.dtype ask of this machine and is not there, with what to
    do, as one sentence; empty if all is there.

    On the hosts of a pod nothing is asked: JAX must join the others before it looks at devices.
    """
    import jax  # where it is not wanted, nothing here is

    if (found := version("jax")) != jax.__version__:
        return (
            f"JAX {found} was installed after this kernel had loaded {jax.__version__}: restart the "
            "kernel (in Colab: Runtime, Restart session) and run all cells again"
        )
    if os.environ.get("JAX_POD") or (platform == "cpu" and dtype != "bfloat16"):
        return ""
    backend = jax.default_backend()
    if platform not in ("cpu", backend):
        extra = {"gpu": "cuda", "tpu": "tpu"}[platform]
        return (
            f"hardware={platform} asks for a {platform.upper()} and JAX finds none: type pip install "
            f"-e '.[{extra}]' where there is one (in Colab: Runtime, Change runtime type), or choose "
            "hardware=cpu"
        )
    if backend == "cpu" and dtype == "bfloat16" and not _has_bfloat16():
        return (
            "hardware.dtype=bfloat16 asks for instructions that this processor lacks (avx512_bf16 or "
            "amx_bf16): choose hardware.dtype=float32"
        )
    return ""


def _check_avx(flags: Iterable[str]) -> None:
    """Raises SystemExit if these are flags of a processor on which JAX's packages end."""
    if flags and "avx" not in flags:
        sys.exit(
            "error: this processor has no AVX instructions, which JAX's packages for x86-64 need: use "
            "another machine, or build jaxlib from its source"
        )


def _processor(cpu: dict[str, str]) -> str:
    """The model's name, with the numbers that tell models of one name apart."""
    name = cpu.get("model name") or platform.processor() or platform.machine()
    parts = [key for key in ("cpu family", "model", "stepping") if key in cpu]
    numbers = " ".join(f"{key.removeprefix('cpu ')} {cpu[key]}" for key in parts)
    return f"{' '.join(name.split())} ({numbers})" if numbers else name


def parse_flags() -> None:
    """Let absl read no flags: Grain's worker processes and tokamax want theirs parsed, which
    notebooks and plain scripts never do.
    """
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


if platform.machine() == "x86_64":  # before anything imports jax
    _check_avx(machine()["flags"].split())
