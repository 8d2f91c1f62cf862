"""Processes of their own for the tests, without a second of imports for each: `run` and `Popen` as `subprocess` has them.

A process that has imported everything, and done nothing else, forks for each ``[sys.executable, "-c", …]`` or ``"-m"``; the child
is orphaned on purpose, which makes it a child of the process that runs the tests: it is waited for, signalled and killed as any
other. It has its own environment, directory, streams and descriptors; but what Python, or a library, reads from the environment
when it starts or is imported, is not read again: such tests, and those of memory and imports, start a Python of their own.
Elsewhere than on Linux everybody does.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_PRELOADED = "dask.array h5py nibabel numba pandas pydantic SimpleITK tifffile tqdm yaml zarr"


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen`; ``[sys.executable, "-c" or "-m", …]`` without further options of Python's is forked."""

    def _execute_child(self, args: Any, *options: Any, **others: Any) -> None:
        # As Popen gives them: executable, preexec_fn, close_fds, pass_fds, cwd, env, …, and the ends of the pipes.
        names = "executable preexec_fn close_fds pass_fds cwd env startupinfo creationflags shell p2cread p2cwrite c2pread c2pwrite"
        given = dict(zip([*names.split(), "errread", "errwrite"], options, strict=False))
        forked = sys.platform == "linux" and isinstance(args, list) and args[0] == sys.executable and args[1] in ("-c", "-m")
        if not forked or given["preexec_fn"] is not None:
            super()._execute_child(args, *options, **others)
            return
        environment = dict(os.environ if given["env"] is None else given["env"])
        ends = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if end == -1 else end for number, end in enumerate(ends)]
        cwd = os.fspath(given["cwd"] or Path.cwd())
        # The library's loader reads this one before anything else.
        self.pid = _forked(environment.get("LD_PRELOAD", ""), [*map(os.fspath, args[1:])], environment, cwd, streams)
        self._child_created = True
        self._close_pipe_fds(*(given[name] for name in names.split()[-4:]), given["errread"], given["errwrite"])


def run(
    arguments: list[Any],
    *,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`, by `Popen`."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(arguments, **options) as child:
        try:
            out, error = child.communicate(timeout=timeout)
        except BaseException:
            child.kill()
            raise
    done = subprocess.CompletedProcess(child.args, child.returncode, out, error)
    if check:
        done.check_returncode()
    return done


def _forked(preloaded: str, words: list[str], environment: dict[str, str], cwd: str, streams: list[int]) -> int:
    to = _server(preloaded)
    message = json.dumps([words, environment, cwd]).encode("utf-8", "surrogateescape")
    to.sendmsg([len(message).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))])
    to.sendall(message)
    return int.from_bytes(to.recv(8, socket.MSG_WAITALL), "big")


@functools.cache
def _server(preloaded: str) -> socket.socket:
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    ours, theirs = socket.socketpair()
    # Threads of its own would not live on in its children.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    if preloaded:
        environment["LD_PRELOAD"] = preloaded
    with theirs:
        server = subprocess.Popen([sys.executable, __file__, str(theirs.fileno())], env=environment, pass_fds=[theirs.fileno()])
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours


def _serve(requests: socket.socket) -> list[str]:
    """What a child is to do; the server itself never comes back."""
    sys.path[0] = ""
    for module in pkgutil.walk_packages(lsfm_core.__path__, "lsfm_core."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _PRELOADED.split():
        importlib.import_module(name)
    gc.freeze()
    inner, outer = os.pipe()
    while True:
        head, ancillary, *_ = requests.recvmsg(8, socket.CMSG_LEN(3 * array.array("i").itemsize))
        if not head:
            os._exit(0)
        streams = array.array("i", ancillary[0][2])
        message = requests.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)
        between = os.fork()
        if between == 0 and (child := os.fork()):
            os.write(outer, child.to_bytes(8, "big"))
            os._exit(0)
        if between == 0:
            break
        os.waitpid(between, 0)  # from now on it is the child of whoever asks for it
        requests.sendall(os.read(inner, 8))
        for stream in streams:
            os.close(stream)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for descriptor in {*streams, inner, outer, requests.detach()}:
        os.close(descriptor)
    words, environment, cwd = json.loads(message.decode("utf-8", "surrogateescape"))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    return words


def _do(words: list[str]) -> int:
    """As Python does a command line, and ends; its exit code."""
    kind, code, *rest = words
    # Buffered, or not, as what they are now wants it.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = [kind, *rest]
    try:
        if kind == "-m":
            runpy.run_module(code, run_name="__main__", alter_sys=True)
        else:
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if isinstance(end.code, int | None):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    import atexit
    import gc
    import importlib
    import pkgutil
    import runpy
    import threading
    import traceback

    import lsfm_core

    _status = _do(_serve(socket.socket(fileno=int(sys.argv[1]))))
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    # To take all these modules apart would take longer than most of what is done here.
    os._exit(_status)
