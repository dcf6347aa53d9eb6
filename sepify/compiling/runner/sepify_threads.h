/* A pool of threads for the kernels' parallel loops. Compiled without SEPIFY_THREADS there is one
 * thread and no need for pthreads. */
#ifndef SEPIFY_THREADS_H
#define SEPIFY_THREADS_H

#include <stdint.h>

#ifdef SEPIFY_THREADS
enum { SEPIFY_MOST_THREADS = 64 };
#else
enum { SEPIFY_MOST_THREADS = 1 };
#endif

/* what TVM hands each task of a parallel loop (tvm/runtime/c_backend_api.h) */
typedef struct {
  void *sync;
  int32_t tasks;
} SepifyParallel;
typedef int (*SepifyTask)(int task, SepifyParallel *environment, void *closure);

/* Have at least `threads` threads from now on; 0 if that cannot be. */
int sepify_make_threads(int threads);

/* How many of them the next loops run on. */
void sepify_use_threads(int threads);

/* The number of the thread that asks, from 0. */
int sepify_thread(void);

/* Run task 0, 1, ... tasks - 1, where 0 stands for as many as there are threads. */
int sepify_parallel(SepifyTask task, void *closure, int tasks);

#endif
