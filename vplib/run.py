"""Execute a notebook: `python -m vplib.run 30_stage2 scale=study seed=0,1,2`.

A run is the notebook plus one string of overrides. It leaves `config.yaml` and the executed
`notebook.ipynb` in its run folder, beside what the notebook itself writes there. Several values of
a key are several runs, one after another.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import papermill
import zmq
from nbclient.exceptions import DeadKernelError
from omegaconf import DictConfig
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from vplib import config, environment, files, finished, paths, progress

PRINT_BYTES = 1_500_000  # a larger notebook is slow to open and heavy in git
HAS_SOCKETS = zmq.has("ipc")  # files that only this user may open; Windows has none for ZeroMQ
environment.prepare()  # before a kernel starts


class RunError(RuntimeError):
    """A run that did not finish. Its message is short: which notebook and cell, the cell's own
    error, where to look.
    """


def run(name: str, overrides: Sequence[str] = (), *, publish: bool = False) -> Path:
    """Execute notebook `name` in a kernel of its own; return the executed copy,
    `<out>/notebook.ipynb`.

    What it prints and its progress go to the terminal while it runs. With `publish` the copy also
    becomes the committed print, `reports/notebooks/<name>-<source>-<scale>.ipynb`. Raises
    ConfigError before anything starts, FileError if the run folder is in use or cannot be written,
    RunError if a cell fails.
    """
    cfg, source = config.load(name, overrides), _source(name)
    target = Path(cfg.out) / "notebook.ipynb"
    began = time.monotonic()
    print(f"{name}  {paths.short(target.parent)}", file=sys.stderr, flush=True)
    with files.locked(target.parent, doing=f"running {name}"):
        notebook, failure = _execute(source, shlex.join(overrides), _variables(cfg))
        _normalise(notebook, clean=failure is None)
        files.write(target, nbformat.writes(notebook) + "\n")
    if failure:
        raise RunError(
            f"{name} failed{failure}\n       the notebook as far as it came: {paths.short(target)}"
        )
    if publish:
        _publish(target, paths.PRINTS / f"{name}-{cfg.source}-{cfg.scale}.ipynb")
    took = progress.duration(time.monotonic() - began)
    print(f"{name}  done in {took}: {paths.short(target)}", file=sys.stderr, flush=True)
    return target


def _variables(cfg: DictConfig) -> dict[str, str]:
    """The environment of a run's kernel. The instruction set is free where a frozen encoder's
    precision is: on videos of the user's.
    """
    free = config.is_own(cfg) and cfg.get("hardware", {}).get("dtype") == "auto"
    variables = environment.unpinned(os.environ) if free else dict(os.environ)
    return variables | {files.HELD: str(Path(cfg.out))}


def _execute(
    source: Path, overrides: str, variables: dict[str, str]
) -> tuple[nbformat.NotebookNode, str | None]:
    """The notebook as far as it came, and how it failed (None if it did not)."""
    executed = []  # filled by the engine: papermill keeps to itself what a failing notebook printed
    try:
        papermill.execute_notebook(
            nbformat.read(source, 4),  # not its path: papermill takes braces in paths as fields
            None,
            {"overrides": overrides},
            engine_name="live",
            kernel_name="python3",
            language="python",
            cwd=paths.ROOT,
            progress_bar=False,
            executed=executed,
            variables=variables,
        )
    except PapermillExecutionError as error:
        said = files.printable(f"{error.ename}: {error.evalue}".removesuffix(": "))
        return executed[0], f" at In [{error.exec_count}]: {said}"
    except DeadKernelError:
        return executed[0], ": the kernel died, often for want of memory"
    return executed[0], None


def run_inline(name: str, overrides: Sequence[str] = ()) -> None:
    """Execute the cells in this process, without a kernel and without an executed copy: for the
    hosts of a pod.

    Errors of a cell are raised as they are.
    """
    config.load(name, overrides)
    source = _source(name)
    os.environ.setdefault("MPLBACKEND", "agg")
    os.chdir(paths.ROOT)
    scope = {"__name__": "__main__"}
    for index, cell in enumerate(nbformat.read(source, 4).cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{name}.ipynb, cell {index}", "exec"), scope)
        if "parameters" in cell.metadata.get("tags", []):
            scope["overrides"] = shlex.join(overrides)


class _Client(PapermillNotebookClient):
    """Shows in the terminal what a notebook prints, and its live progress, as it happens."""

    def __init__(self, *args: object, stack: contextlib.ExitStack, **kwargs: object):
        super().__init__(*args, **kwargs, on_cell_start=self._start)
        self._line, self._stack = progress.Line(sys.stderr), stack

    def start_new_kernel(self, **kwargs: object) -> None:
        super().start_new_kernel(**kwargs)
        self._stack.enter_context(environment.ending_with_us(self.km.provisioner.pgid))

    def _start(self, cell: nbformat.NotebookNode, cell_index: int) -> None:
        self._line.show(f"cell {cell_index + 1}/{len(self.nb.cells)}")

    def process_message(
        self, msg: dict, cell: nbformat.NotebookNode, cell_index: int
    ) -> nbformat.NotebookNode | None:
        content = msg["content"]
        if msg["msg_type"] == "stream":
            self._line.clear()
            print(content["text"], end="", file=getattr(sys, content["name"]), flush=True)
        elif (content.get("transient") or {}).get("display_id", "").startswith(progress.DISPLAY_ID):
            data = content["data"]
            self._line.show(data["text/plain"], last="text/html" not in data)
        return super().process_message(msg, cell, cell_index)

    def papermill_execute_cells(self) -> None:
        try:
            super().papermill_execute_cells()
        finally:
            self._line.clear()


class _Engine(NBClientEngine):
    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: object,
        kernel_name: str,
        executed: list,
        variables: dict[str, str],
        **_: object,
    ) -> None:
        executed.append(nb_man.nb)
        with _short_folder() as folder, files.explained(folder), contextlib.ExitStack() as stack:
            # Where there are sockets: no port that others on the machine could reach.
            transport = "ipc" if HAS_SOCKETS else "tcp"
            sockets = {"transport": transport, "connection_file": f"{folder}/kernel.json"}
            client = _Client(
                nb_man,
                stack=stack,
                kernel_name=kernel_name,
                config=Config({"KernelManager": sockets}),
                startup_timeout=300,
                record_timing=False,
                shutdown_kernel="immediate",  # one that is asked to leave prints seeming faults
            )
            client.execute(env=variables | {"TMPDIR": str(folder)})


@contextlib.contextmanager
def _short_folder() -> Iterator[Path]:
    """A temporary folder whose path leaves room for the names of sockets (about 100 bytes in all).

    What killed runs left behind is removed. Raises RunError if there is no place.
    """
    host = f"vplib-{zlib.crc32(socket.gethostname().encode()):08x}"
    for place in map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp")):
        if (HAS_SOCKETS and len(os.fsencode(place)) > 40) or not os.access(
            place, os.W_OK | os.X_OK
        ):
            continue
        for stale in place.glob(f"{host}-*-*"):
            process = stale.name.split("-")[2]
            if process.isdecimal() and not files.alive(int(process)):
                shutil.rmtree(stale, ignore_errors=True)
        with files.explained(place):
            folder = Path(tempfile.mkdtemp(prefix=f"{host}-{os.getpid()}-", dir=place))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    raise RunError(
        "no folder for sockets: set TMPDIR to a folder of yours, its path under 40 bytes"
    )


papermill_engines.register("live", _Engine)


def _source(name: str) -> Path:
    path = paths.NOTEBOOKS / f"{name}.ipynb"
    if not path.exists():
        raise RunError(f"{paths.short(path)} is missing")
    tagged = [
        cell.source
        for cell in nbformat.read(path, 4).cells
        if "parameters" in cell.metadata.get("tags", [])
    ]
    if len(tagged) != 1 or not re.search(r'^overrides = ""', tagged[0], re.MULTILINE):
        raise RunError(
            f"{paths.short(path)} must have one cell tagged 'parameters' that says overrides = \"\""
        )
    return path


def _normalise(notebook: nbformat.NotebookNode, *, clean: bool) -> None:
    """Remove what differs between two equal runs: times, random ids, and in a clean run machine
    paths and stderr.
    """
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": kernel, "language_info": {"name": "python"}}
    )
    for index, cell in enumerate(notebook.cells):
        cell.id = f"c{index:03d}"
        kept = {key: cell.metadata[key] for key in ("tags", "alt") if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)  # alt: its pictures in words
        if cell.cell_type == "code" and clean:
            cell.outputs = _merge(
                [output for output in cell.outputs if output.get("name") != "stderr"]
            )
            for output in cell.outputs:
                texts, keys = (
                    (output, ["text"])
                    if output.output_type == "stream"
                    else (output.data, [*output.data])
                )
                for key in keys:
                    if key.startswith("text"):
                        texts[key] = _scrub(texts[key])


def _merge(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Join neighbouring streams: where the kernel cuts what is printed depends on timing."""
    merged = []
    for output in outputs:
        if merged and output.output_type == merged[-1].output_type == "stream":
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def _scrub(text: str) -> str:
    for folder in (paths.OUT, paths.ROOT):
        text = text.replace(f"{folder}/", "").replace(str(folder), ".")
    return re.sub(r" at 0x[0-9a-f]{6,}", "", text)  # memory addresses


def _publish(source: Path, target: Path) -> None:
    size = source.stat().st_size
    if size > PRINT_BYTES:
        raise RunError(
            f"{paths.short(source)} has {size / 1e6:.1f} MB, a print at most "
            f"{PRINT_BYTES / 1e6:.1f} MB: "
            "show fewer or smaller pictures"
        )
    files.folder(target.parent)
    files.write(target, source.read_bytes())


def _run_all(name: str, runs: Sequence[Sequence[str]]) -> None:
    """Several runs, one after another, without those that are finished; a line for each, with the
    time left.
    """
    cfgs = [config.check(name, overrides) for overrides in runs]
    todo = [one for one in zip(cfgs, runs, strict=True) if not finished.is_finished(one[0])]
    print(f"{len(todo)} of {len(runs)} runs are left", file=sys.stderr, flush=True)
    clock = progress.Clock()
    for number, (cfg, overrides) in enumerate(todo, 1):
        with clock.timing(name):
            begun = finished.begin(cfg)
            run(name, overrides, publish=False)
            finished.end(cfg, begun)
        left = clock.left([name] * (len(todo) - number))
        print(f"[{number}/{len(todo)}] {cfg.tag}; {left}", file=sys.stderr, flush=True)


def main() -> None:
    environment.write_any_letter()
    parser = argparse.ArgumentParser(prog="python -m vplib.run", description="Execute a notebook.")
    parser.add_argument("name", metavar="NN_name", help=", ".join(config.names()))
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        help="Hydra overrides; seed=0,1,2 is three runs",
    )
    parser.add_argument(
        "--print",
        action="store_true",
        help="also write the committed print, reports/notebooks/NN_name-source-scale.ipynb",
    )
    parser.add_argument(
        "--inline",
        action="store_true",
        help="run the cells in this process, as the hosts of a pod do",
    )
    args = parser.parse_intermixed_args()
    if "DVC_STAGE" in os.environ:
        environment.end_with_parent()
    try:
        runs = config.expand(args.overrides)
        if len(runs) > 1 and args.print:
            raise RunError(f"--print takes one run, given {len(runs)}")
        for overrides in runs:
            # Every choice is checked before the first run starts.
            cfg = config.load(args.name, overrides)
            if args.print and cfg.seed:
                raise RunError(
                    f"--print is for seed 0, given seed={cfg.seed}: leave one of both out"
                )
        if args.inline or len(runs) == 1:
            for overrides in runs:
                run_inline(args.name, overrides) if args.inline else run(
                    args.name, overrides, publish=args.print
                )
        else:
            _run_all(args.name, runs)
    except (config.ConfigError, files.FileError, RunError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
