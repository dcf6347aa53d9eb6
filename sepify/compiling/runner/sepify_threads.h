/* A pool of threads for the kernels' parallel loops: one in a process. Compiled without
 * SEPIFY_THREADS there is one thread and no need for pthreads. */
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

/* How an error goes from the thread that it was raised in to the one that waits (tvm/ffi/c_api.h):
 * take it there, raise it here, release it; or raise one of these words. */
typedef struct {
  void (*take)(void **error);
  void (*raise)(void *error);
  int (*release)(void *error);
  void (*say)(const char *kind, const char *message);
} SepifyErrors;

/* Which version of what is declared here this is: Python looks for it in a library. */
extern const int sepify_threads_interface;

/* Have at least `threads` threads from now on; 0 if that cannot be. */
int sepify_make_threads(int threads);

/* How many of them the next loops run on, and how many that is. */
void sepify_use_threads(int threads);
int sepify_used_threads(void);

/* Hand over errors so from now on; without it only that a task failed is told. */
void sepify_hand_over_errors(const SepifyErrors *errors);

/* The number of the thread that asks, from 0. */
int sepify_thread(void);

/* Run task 0, 1, ... tasks - 1, each once; 0 stands for as many as the pool thinks good, which the
 * environment tells each task. A caller that comes while another's loop runs does all by itself.
 * 0, or -1 if a task failed. */
int sepify_parallel(SepifyTask task, void *closure, int tasks);

#endif
