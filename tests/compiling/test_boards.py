"""Our RPC server and its clients, with this machine as the board: loopback only."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sepify.cli import main
from sepify.compiling import make_bundle
from sepify.compiling.device.bench import BoardBench, open_board_bench
from sepify.compiling.device.boards import find_farm, probe_farm
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.workload import Workload
from sepify.compiling.targets import find_target
from sepify.errors import DeviceError, FileError, UsageError

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

SECRET = "a secret of its own".replace(" ", "-")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    folder = tmp_path_factory.mktemp("board") / "bundle"
    return make_bundle(model, torch.randn(1, 3, 9, 9), "native", folder).path


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "secret.txt"
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture
def start(bundle, secret):
    """Starts servers on free ports of loopback; gives (process, port)."""
    running = []

    def server(*options):
        command = [str(bundle / "serve"), "--secret", str(secret), "--port", "0", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        line = process.stdout.readline()
        return process, int(re.search(r":(\d+),", line)[1])

    yield server
    for process in running:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def farm_of(secret, *ports, key=None):
    return find_farm(None, key, [f"127.0.0.1:{port}" for port in ports], secret)


def workload():
    conv = Conv(1, 16, 8, 8, 16, Window((3, 3), padding=(1, 1, 1, 1)), 8, 8)
    return Workload("dense", conv, Epilogue())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_candidate_is_timed_on_the_board(start, secret):
    farm = farm_of(secret, start()[1])
    target = find_target("native")
    with open_board_bench(farm, target) as bench:
        record = bench.measure(workload(), workload().default_knobs(target.machine))
    assert record.error is None
    assert record.seconds > 0


def test_a_dead_board_is_dropped_and_its_work_is_done_on_another(start, secret):
    (first, port1), (_, port2) = start(), start()
    farm = farm_of(secret, port1, port2)
    assert probe_farm(farm) == 2
    target = find_target("native")
    bench = BoardBench(farm, target)
    try:
        first.kill()
        first.wait()
        record = bench.measure(workload(), workload().default_knobs(target.machine))
        assert record.error is None
        assert bench._boards == [farm.boards[1]]
    finally:
        bench.close()


def test_with_no_board_left_it_stops(start, secret):
    process, port = start()
    target = find_target("native")
    bench = BoardBench(farm_of(secret, port), target)
    process.kill()
    process.wait()
    started = time.monotonic()
    try:
        with pytest.raises(DeviceError, match="no board is left; what was measured is kept"):
            bench.measure(workload(), workload().default_knobs(target.machine))
    finally:
        bench.close()
    assert time.monotonic() - started < 60


def test_candidates_that_cannot_be_linked_fail_and_the_board_stays(start, secret, tmp_path):
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho error: no linker today >&2\nexit 1\n")
    broken.chmod(0o755)
    target = replace(find_target("native"), compiler=str(broken))
    bench = BoardBench(farm_of(secret, start()[1]), target)
    try:
        for _ in range(2):
            record = bench.measure(workload(), workload().default_knobs(target.machine))
            assert record.seconds is None
            assert record.error
        assert len(bench._boards) == 1
    finally:
        bench.close()


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
