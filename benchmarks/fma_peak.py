"""The FMA peak of this CPU in GFLOP/s, by a loop of independent multiply-adds in C."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

_SOURCE = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef float vector __attribute__((vector_size(BYTES)));
enum { CHAINS = 12, STEPS = 100000, REPEATS = 60 };
static float sink;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

/* the best of REPEATS: whatever else runs can only slow it down */
static void *work(void *out) {
  double best = 1e9;
  for (int r = 0; r < REPEATS; r++) {
    vector a[CHAINS], b = (vector){0} + 0.999f, c = (vector){0} + 0.001f;
    for (int i = 0; i < CHAINS; i++) a[i] = b + (float)i;
    double start = now();
    for (int k = 0; k < STEPS; k++) {
      _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) a[i] = a[i] * b + c;
    }
    double taken = now() - start;
    if (taken < best) best = taken;
    for (int i = 0; i < CHAINS; i++) sink += a[i][0];
  }
  *(double *)out = 2.0 * CHAINS * (BYTES / 4) * STEPS / best / 1e9;
  return 0;
}

int main(int argc, char **argv) {
  int threads = atoi(argv[1]);
  pthread_t thread[64];
  double rate[64], sum = 0;
  for (int i = 0; i < threads; i++) pthread_create(&thread[i], 0, work, &rate[i]);
  for (int i = 0; i < threads; i++) { pthread_join(thread[i], 0); sum += rate[i]; }
  printf("%.2f\n", sum);
  return sink == 1.0f;
}
"""


def fma_peak(threads: int) -> float | None:
    """GFLOP/s of `threads` threads together with the widest vectors; None without a C compiler."""
    features = Path("/proc/cpuinfo").read_text()
    size = 64 if "avx512f" in features else 32 if "avx2" in features else 16
    flags = [
        "-O3",
        "-march=native",
        "-mprefer-vector-width=512",
        "-ffp-contract=fast",
        f"-DBYTES={size}",
        "-pthread",
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder) / "peak.c", Path(folder) / "peak"
        source.write_text(_SOURCE)
        try:
            subprocess.run(["cc", *flags, str(source), "-o", str(program)], check=True)
            done = subprocess.run(
                [str(program), str(min(threads, 64))], check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError):
            return None
    return float(done.stdout)


if __name__ == "__main__":
    for count in (1, 2):
        print(f"{count} threads: {fma_peak(count)} GFLOP/s")
