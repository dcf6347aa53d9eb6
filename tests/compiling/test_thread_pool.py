"""Our thread pool: in C by itself, and under TVM in fresh processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from torch import nn

from sepify.compiling import compile

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

CASES = (
    "every_task_runs_once",
    "held_workers_hold_nobody_up",
    "a_slow_worker_is_left_alone",
    "workers_come_back",
    "a_loop_in_a_loop_runs_alone",
    "a_child_process_has_threads_of_its_own",
    "numbers_that_cannot_be",
)
RUNNER = resources.files("sepify.compiling") / "runner"


@pytest.fixture(scope="module", params=["futex", "pthread"])
def program(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    (folder / "hooks.h").write_text("void before_taking(int thread);\n")
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-DSEPIFY_THREADS"]
    flags += ["-DSEPIFY_BEFORE_TAKING(thread)=before_taking(thread)", "-Dsched_getcpu=no_core"]
    flags += ["-include", str(folder / "hooks.h"), f"-I{RUNNER}"]
    flags += ["-DSEPIFY_NO_FUTEX"] if request.param == "pthread" else []
    sources = [Path(__file__).with_name("thread_pool.c"), RUNNER / "sepify_threads.c"]
    subprocess.run(["cc", *flags, *map(str, sources), "-o", str(folder / "pool")], check=True)
    return folder / "pool"


@pytest.mark.parametrize("case", CASES)
def test_the_pool_by_itself(program, case):
    assert subprocess.run([str(program), case]).returncode == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved network and an input with its output."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1)).eval()
    x = torch.randn(1, 3, 24, 24)
    place = tmp_path_factory.mktemp("saved")
    fast = compile(model, x)
    fast.save(place / "network")
    torch.save((model, x, fast(x).clone()), place / "case.pt")
    return place


BEGINNING = """
import os, sys, threading, time, warnings, torch, sepify
place = sys.argv[1]
model, x, y = torch.load(place + "/case.pt", weights_only=False)
def workers(wanted):  # a thread names itself once it runs
    for _ in range(2000):
        tasks = os.listdir("/proc/self/task")
        have = sum("sepify" in open(f"/proc/self/task/{task}/comm").read() for task in tasks)
        if have == wanted: break
        time.sleep(0.01)
    return have
"""


def run(code: str, folder: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    environment = environment or {"TVM_NUM_THREADS": "4"}
    script = folder / "case.py"  # TVM's parser reads a function's source
    script.write_text(BEGINNING + code)
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        env={**kept, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_number_of_threads_can_be_changed(folder):
    code = """
fast = sepify.load_compiled(place + "/network")
fast.set_threads(1)
assert torch.equal(fast(x), y) and workers(0) == 0
for threads in (2, 4, 1, 3):
    fast.set_threads(threads)
    assert torch.equal(fast(x), y)
print(fast.thread_pool, workers(3))
"""
    assert run(code, folder) == "sepify 3\n"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_omp_num_threads_limits_them_at_first(folder):
    code = """
fast = sepify.load_compiled(place + "/network")
fast(x)
assert workers(0) == 0
fast.set_threads(2)
fast(x)
assert workers(1) == 1
"""
    run(code, folder, OMP_NUM_THREADS="1")


def test_several_threads_and_a_child_process_get_right_answers(folder):
    code = """
fast = [sepify.load_compiled(place + "/network") for _ in range(3)]
fast[0].set_threads(2)
wrong = []
def call(network):
    for _ in range(300):
        if not torch.equal(network(x), y): wrong.append(1)
callers = [threading.Thread(target=call, args=(network,)) for network in fast]
for caller in callers: caller.start()
child = os.fork()
if not child:
    os._exit(0 if all(torch.equal(fast[0](x), y) for _ in range(300)) else 1)
for caller in callers: caller.join()
assert not wrong
assert os.waitpid(child, 0)[1] == 0
"""
    run(code, folder)


def test_without_a_compiler_a_saved_network_brings_the_pool(folder, tmp_path):
    code = """
warnings.simplefilter("error")
fast = sepify.load_compiled(place + "/network")
fast.set_threads(2)
assert torch.equal(fast(x), y)
print(fast.thread_pool, workers(1))
"""
    assert run(code, folder, PATH=str(tmp_path), TVM_NUM_THREADS="4") == "sepify 1\n"


def test_without_a_compiler_what_is_compiled_runs_on_tvms_and_says_so(folder, tmp_path):
    code = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    fast = sepify.compile(model, x)
print([str(w.message) for w in caught if issubclass(w.category, sepify.errors.ThreadWarning)])
fast.set_threads(2)
torch.testing.assert_close(fast(x), model(x))
print(fast.thread_pool, workers(0), os.environ["TVM_THREAD_POOL_SPIN_COUNT"])
"""
    said, last = run(code, folder, PATH=str(tmp_path), TVM_NUM_THREADS="4").splitlines()
    assert said.count("no C compiler") == 1
    assert last == "tvm 0 0"


def test_errors_come_from_the_thread_that_they_were_raised_in(folder):
    code = """
from sepify.compiling import thread_pool
from sepify.compiling.dependencies import require_tvm
require_tvm()
import numpy as np, tvm
from tvm.script import tirx as T
assert thread_pool.install(None) == "sepify"
thread_pool.use_threads(3)
@T.prim_func
def check(X: T.Buffer((64,), "float32"), Y: T.Buffer((64,), "float32")):
    T.func_attr({"global_symbol": "check", "tirx.noalias": True})
    for i in T.parallel(64):
        assert X[i] < 2.0, "a value is too large"
        Y[i] = X[i] + 1.0
built = tvm.compile(tvm.IRModule({"check": check}), target="llvm")
good, out = tvm.runtime.tensor(np.zeros(64, "float32")), tvm.runtime.tensor(np.zeros(64, "float32"))
for place in range(64):
    values = np.zeros(64, "float32")
    values[place] = 3.0
    try:
        built["check"](tvm.runtime.tensor(values), out)
    except Exception as error:
        assert "a value is too large" in str(error), error
    else:
        raise SystemExit("no error")
    built["check"](good, out)
    assert (out.numpy() == 1).all()
"""
    run(code, folder)
