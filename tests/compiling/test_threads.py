"""Several threads and processes convert, compile, load and run at once."""

import os
import pickle
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import sepify
from sepify.errors import CompileError
from sepify.process.lock import one_at_a_time

THREADS = 4
X = [torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(THREADS)]


def network(width):
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 4, 3), nn.BatchNorm2d(4)
    ).eval()


@pytest.fixture(scope="module")
def model():
    return network(8)


@pytest.fixture(scope="module")
def compiled(model):
    pytest.importorskip("tvm")
    return sepify.compile(model, X[0])


@pytest.fixture(scope="module")
def folder(compiled, tmp_path_factory):
    return compiled.save(tmp_path_factory.mktemp("threads") / "network")


@pytest.fixture(scope="module")
def wanted(model):
    with torch.no_grad():
        return [model(x) for x in X]


def in_threads(work):
    """What `work(i)` gives in threads that begin at once."""
    ready = threading.Barrier(THREADS)

    def begin(i):
        ready.wait(60)
        return work(i)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(begin, range(THREADS)))


def in_a_fork(work):
    """Whether `work()` is true in a fork of this process."""
    pid = os.fork()
    if pid == 0:
        right = False
        try:
            right = bool(work())
        finally:
            os._exit(0 if right else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_threads_share_a_compiled_network(compiled, wanted):
    def work(i):
        return all(torch.allclose(compiled(X[i]), wanted[i], atol=1e-5) for _ in range(300))

    assert in_threads(work) == [True] * THREADS


@pytest.fixture
def restless():
    """Threads take over from each other as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_load_at_once_and_stderr_stays_where_it_was(folder, wanted, restless):
    from sepify.compiling import tvm_runtime

    before = os.fstat(2)

    def work(i):
        loaded = [sepify.load_compiled(folder) for _ in range(5)]
        for _ in range(2000):
            with tvm_runtime.quiet():  # what loading does to stderr
                pass
        return all(torch.allclose(one(X[i]), wanted[i], atol=1e-5) for one in loaded)

    assert in_threads(work) == [True] * THREADS
    after = os.fstat(2)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)


def test_threads_convert_compile_and_save_at_once(compiled, tmp_path):
    filters = list(warnings.filters)

    def work(i):
        small = sepify.convert(
            network(4 + i), rank=1, solver=sepify.Solver(method="svd"), example_inputs=X[i]
        )
        fast = sepify.compile(small, X[i])
        sepify.save_model(small, tmp_path / f"{i}.pt", X[i])
        again = sepify.load_compiled(fast.save(tmp_path / str(i)))
        with torch.no_grad():
            right = small(X[i])
        return torch.allclose(fast(X[i]), right, atol=1e-4) and torch.equal(fast(X[i]), again(X[i]))

    assert in_threads(work) == [True] * THREADS
    assert warnings.filters == filters


def test_a_fork_runs_what_its_parent_has_loaded(compiled, wanted):
    assert in_a_fork(lambda: torch.allclose(compiled(X[1]), wanted[1], atol=1e-5))


def test_a_fork_in_the_middle_of_another_threads_work(compiled, wanted):
    """The thread that would give the locks back is not there in the fork."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with one_at_a_time(), compiled._turn:
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:

        def work():
            with one_at_a_time():
                return torch.allclose(compiled(X[1]), wanted[1], atol=1e-5)

        assert in_a_fork(work)
    finally:
        done.set()
        thread.join()
    assert torch.allclose(compiled(X[2]), wanted[2], atol=1e-5)


def test_a_loaded_network_can_be_pickled_by_its_folder(compiled, folder, wanted):
    again = pickle.loads(pickle.dumps(sepify.load_compiled(folder)))
    assert torch.allclose(again(X[0]), wanted[0], atol=1e-5)
    with pytest.raises(CompileError, match="save it"):
        pickle.dumps(compiled)
