"""Our RPC server and its clients, with this machine as the board: loopback only."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sepify.cli import main
from sepify.compiling.device import bench as board_bench
from sepify.compiling.device.bench import BoardBench, open_board_bench
from sepify.compiling.device.boards import find_farm, probe_farm
from sepify.compiling.kernel_tuning.search import search
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.targets import find_target
from sepify.errors import CompileError, DeviceError, FileError, UsageError

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

SECRET = "a-secret-of-its-own"  # of tests/conftest.py


def farm_of(secret, *ports, key=None):
    return find_farm(None, key, [f"127.0.0.1:{port}" for port in ports], secret)


def workload():
    conv = Conv(1, 16, 8, 8, 16, Window((3, 3), padding=(1, 1, 1, 1)), 8, 8)
    return Workload(DENSE, conv, Epilogue())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def candidates():
    """Some for one workload: four or more."""
    steps = search(workload(), find_target("native").machine)
    found = [*next(steps)]
    group = found
    while len(found) < 4:
        group = steps.send([1.0] * len(group))
        found += group
    return found


@contextmanager
def bench_on(farm, target="native", **options):
    target = find_target(target) if isinstance(target, str) else target
    bench = BoardBench(farm, target, len(farm.boards), **options)
    try:
        yield bench
    finally:
        bench.close()


def measure(bench, *candidates):
    """Their records, in the order of the candidates."""
    for knobs in candidates:
        bench.submit(workload(), knobs)
    records = dict.fromkeys(candidates)
    for _ in candidates:
        _, record = bench.collect()
        records[record.knobs] = record
    return list(records.values())


class Relay:
    """A way to a board that the test can watch, hold and cut."""

    def __init__(self, port, opened=lambda: None, most=None):
        """`opened` is called for each connection; `most` are the bytes that one may take there."""
        self.to, self.opened, self.most = port, opened, most
        self.connections = 0
        self.is_cut = False
        self.ends = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self.listening.accept()
                if self.is_cut:
                    near.close()
                    continue
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near):
        self.connections += 1
        try:
            self.opened()
        except threading.BrokenBarrierError:
            near.close()
            return
        far = socket.create_connection(("127.0.0.1", self.to))
        self.ends += [near, far]
        for one, other in ((near, far), (far, near)):
            threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    def _copy(self, one, other):
        passed = 0
        with suppress(OSError):
            while (data := one.recv(1 << 16)) and passed < (self.most or passed + 1):
                other.sendall(data)
                passed += len(data)
        shut(one, other)

    def cut(self):
        """As if the cable was pulled out, and both sides noticed."""
        self.is_cut = True
        shut(*self.ends)


def shut(*ends):
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay():
    made = []

    def start_relay(*arguments, **options):
        made.append(Relay(*arguments, **options))
        return made[-1]

    yield start_relay
    for one in made:
        one.cut()
        one.listening.close()


def test_a_candidate_is_timed_on_the_board(start, secret):
    farm = farm_of(secret, start()[1])
    target = find_target("native")
    with open_board_bench(farm, target) as bench:
        (record,) = measure(bench, candidates()[0])
        assert bench.slots == 1
        assert bench.words == " on 1 board"
    assert record.error is None
    assert record.seconds > 0


def test_two_boards_have_a_candidate_each_at_the_same_time(start, secret, relay):
    """No connection goes through before there is one to each board."""
    both = threading.Barrier(2)
    relays = [relay(start()[1], lambda: both.wait(300)) for _ in range(2)]
    with bench_on(farm_of(secret, *(each.port for each in relays))) as bench:
        records = measure(bench, *candidates()[:4])
    assert [record.error for record in records] == [None] * 4
    assert [each.connections for each in relays] == [2, 2]
    assert not both.broken


def test_a_dead_board_is_left_alone_and_its_work_is_done_on_another(start, secret):
    (first, port1), (_, port2) = start(), start()
    farm = farm_of(secret, port1, port2)
    assert probe_farm(farm) == 2
    first.kill()
    first.wait()
    with bench_on(farm) as bench:
        assert [record.error for record in measure(bench, *candidates()[:3])] == [None] * 3
        assert bench.words == " on 1 of 2 boards"


def test_a_link_that_drops_in_mid_work_costs_nothing_but_time(start, secret, relay):
    bad = relay(start()[1])
    bad.opened = bad.cut
    with bench_on(farm_of(secret, bad.port, start()[1])) as bench:
        assert [record.error for record in measure(bench, *candidates()[:3])] == [None] * 3
    assert bad.connections == 1


def test_a_board_that_is_started_again_is_taken_back(start, secret):
    """It has nobody beside it: what it had in hand, and the rest, are done when it is back."""
    process, port = start()
    first, *others = candidates()[:3]
    with bench_on(farm_of(secret, port)) as bench:
        assert measure(bench, first)[0].error is None
        process.kill()
        process.wait()
        for knobs in others:
            bench.submit(workload(), knobs)
        while bench.words == " on 1 board":
            time.sleep(0.01)
        start("--port", str(port))
        assert [bench.collect()[1].error for _ in others] == [None, None]
        assert bench.words == " on 1 board"


def test_with_no_board_left_it_stops(start, secret):
    process, port = start()
    process.kill()
    process.wait()
    with (
        bench_on(farm_of(secret, port), patience=3.0) as bench,
        pytest.raises(DeviceError, match="no board is left .*cannot be reached.* measured is kept"),
    ):
        measure(bench, candidates()[0])


def test_what_takes_a_board_down_twice_is_to_blame_itself(start, secret, relay):
    """The link drops each time that a candidate is sent, and is there again at once."""
    cutting = relay(start()[1], most=5000)
    with bench_on(farm_of(secret, cutting.port)) as bench:
        (record,) = measure(bench, candidates()[0])
    assert record.seconds is None
    assert "lost 2 times" in record.error


def test_candidates_that_cannot_be_linked_fail_and_the_board_stays(start, secret, tmp_path):
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho error: no linker today >&2\nexit 1\n")
    broken.chmod(0o755)
    target = replace(find_target("native"), compiler=str(broken))
    with bench_on(farm_of(secret, start()[1]), target) as bench:
        for record in measure(bench, *candidates()[:2]):
            assert record.seconds is None
            assert record.error
        assert bench.words == " on 1 board"


def test_a_process_that_cannot_be_started_is_an_error(start, secret, monkeypatch):
    monkeypatch.setattr(board_bench, "WORKER", [sys.executable, "-c", "raise SystemExit(3)"])
    with (
        bench_on(farm_of(secret, start()[1])) as bench,
        pytest.raises(CompileError, match="does not start: crashed: exit code 3"),
    ):
        measure(bench, candidates()[0])


def test_the_secret_is_checked_before_anything_is_loaded(start, secret, tmp_path):
    process, port = start()
    (tmp_path / "other").write_text("another-secret-of-length\n")
    with pytest.raises(DeviceError, match="wrong secret"):
        probe_farm(farm_of(tmp_path / "other", port))
    with pytest.raises(DeviceError, match="refused"):
        probe_farm(farm_of(secret, port, key="other"))
    process.terminate()
    told = process.stdout.read()
    assert "refused: wrong secret" in told
    assert "refused: another key" in told
    assert SECRET not in told


def test_it_listens_on_loopback_and_outlives_noise(start, secret):
    _, port = start()
    for noise in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x71\xf2\x0f\x00\xff\xff\xff\x7f"):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(noise)
    listening = Counter()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, at = line.split()[1].split(":")
        if int(at, 16) == port and line.split()[3] == "0A":
            listening[address] += 1
    assert list(listening) == ["0100007F"]
    assert probe_farm(farm_of(secret, port)) == 1


def test_a_session_that_takes_too_long_is_ended(start, secret):
    process, port = start("--limit", "1")
    text = f"client:board -secret={SECRET}".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"\x71\xf2\x0f\x00" + len(text).to_bytes(4, "little") + text)
        while connection.recv(100):
            pass  # its end of the connection is closed when it is killed
    assert probe_farm(farm_of(secret, port)) == 1
    process.terminate()
    assert "its time was up" in process.stdout.read()


def test_no_tracker_and_no_board_for_the_key(secret):
    port = free_port()
    with pytest.raises(DeviceError, match=f"no tracker at 127.0.0.1:{port}"):
        probe_farm(find_farm(f"127.0.0.1:{port}", "pi", None, secret))
    with pytest.raises(DeviceError, match="cannot be reached"):
        probe_farm(farm_of(secret, port))


def test_options_that_do_not_fit(tmp_path, secret):
    (tmp_path / "short").write_text("short\n")
    for arguments, words in (
        ((None, "pi", None, None), "go with --tracker or --device"),
        (("a:1", None, ["b:2"], secret), "not both"),
        (("a:1", None, None, None), "--secret"),
        (("a:1", None, None, tmp_path / "short"), "16 characters"),
        (("a", None, None, secret), "is not like"),
        (("a:0", None, None, secret), "is not like"),
    ):
        with pytest.raises(UsageError, match=words):
            find_farm(*arguments)
    assert find_farm(None, None, None, None) is None
    with pytest.raises(FileError, match="no such file"):
        find_farm("a:1", None, None, tmp_path / "absent")


def test_the_server_refuses_bad_options(bundle, secret, tmp_path):
    (tmp_path / "short").write_text("short\n")
    for options, code in (
        ([], 2),
        (["--secret", str(secret), "--limit", "0"], 2),
        (["--secret", str(secret), "--key", 'a"b'], 2),
        (["--secret", str(tmp_path / "short")], 1),
        (["--secret", str(secret), "--host", "nowhere"], 1),
    ):
        done = subprocess.run([str(bundle / "serve"), *options], capture_output=True)
        assert done.returncode == code, options


def test_latency_at_a_shell(bundle, start, secret, monkeypatch, capsys):
    _, port = start()
    argv = ["sepify", "device", "time", str(bundle), "--runs", "5"]
    argv += ["--device", f"127.0.0.1:{port}", "--secret", str(secret)]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert re.search(r"5 runs on 127.0.0.1:\d+: least [\d.]+ ms", capsys.readouterr().out)


def test_serving_at_a_shell(bundle, secret):
    command = [sys.executable, "-m", "sepify", "device", "serve", str(bundle), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [*command, "--secret", str(secret)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert "serving native on 127.0.0.1:" in process.stdout.readline()
    finally:
        process.terminate()
        process.wait()
