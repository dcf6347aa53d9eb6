/* What test_thread_pool.py asks of sepify_threads.c, a case each; the exit code is 0 where it
 * holds. In the pool that this is linked to, SEPIFY_BEFORE_TAKING is `before_taking`, and
 * `sched_getcpu` is `no_core`: on a busy machine workers would come only now and then. */
#define _GNU_SOURCE
#include "sepify_threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 5000 };

static atomic_int held, arrived; /* workers, before they take a task */

void before_taking(int thread) {
  if (!thread || !atomic_load(&held)) return;
  atomic_fetch_add(&arrived, 1);
  while (atomic_load(&held)) usleep(1000);
}

int no_core(void) { return -1; }

typedef struct {
  int tasks, fails, pause;
  atomic_int ran[MOST], by_workers;
} Loop;

static int task(int number, SepifyParallel *environment, void *closure) {
  Loop *loop = closure;
  if (loop->tasks && environment->tasks != loop->tasks) abort();
  if (number < 0 || number >= environment->tasks || number >= MOST) abort();
  atomic_fetch_add(&loop->ran[number], 1);
  if (sepify_thread()) atomic_fetch_add(&loop->by_workers, 1);
  if (loop->pause) usleep((unsigned)(sepify_thread() ? loop->pause : 1000));
  return loop->fails && number % 3 == 0;
}

/* the number of tasks that ran, or -1 where one did not run once */
static int ran_once(const Loop *loop) {
  int last = MOST;
  while (last && !loop->ran[last - 1]) --last;
  for (int i = 0; i < last; ++i)
    if (loop->ran[i] != 1) return -1;
  return loop->tasks && last != loop->tasks ? -1 : last;
}

static int run(Loop *loop, int tasks) {
  memset(loop->ran, 0, sizeof loop->ran);
  loop->by_workers = 0;
  loop->tasks = tasks;
  return sepify_parallel(task, loop, tasks);
}

static void *many_loops(void *argument) {
  Loop *loop = calloc(1, sizeof *loop);
  unsigned seed = (unsigned)(intptr_t)argument;
  for (int i = 0; i < 3000; ++i) {
    int tasks = rand_r(&seed) % (i % 50 ? 40 : MOST);
    loop->fails = rand_r(&seed) % 8 == 0;
    if (run(loop, tasks) != (loop->fails ? -1 : 0)) abort();
    /* a caller that runs alone stops at a failure */
    if (!loop->fails && ran_once(loop) < 1) abort();
    if (i % 100 == 0) sepify_use_threads(1 + rand_r(&seed) % 8);
  }
  free(loop);
  return NULL;
}

static int every_task_runs_once(void) {
  pthread_t callers[3];
  if (!sepify_make_threads(8)) return 2;
  sepify_use_threads(4);
  for (intptr_t i = 0; i < 3; ++i) pthread_create(&callers[i], NULL, many_loops, (void *)i);
  many_loops((void *)3);
  for (int i = 0; i < 3; ++i) pthread_join(callers[i], NULL);
  return 0;
}

static int held_workers_hold_nobody_up(void) {
  static Loop loop;
  sepify_make_threads(4);
  sepify_use_threads(4);
  atomic_store(&held, 1);
  for (int i = 0; i < 2000; ++i) {
    if (run(&loop, 1 + i % 50) || ran_once(&loop) < 1 || loop.by_workers) return 2;
    if (i % 100 == 0) usleep(2000);
  }
  for (int i = 0; !atomic_load(&arrived); ++i) { /* they were there */
    if (i == 5000 || run(&loop, 9)) return 3;
    usleep(2000);
  }
  atomic_store(&held, 0); /* late for all these loops, they find nothing of them */
  for (int i = 0; i < 2000; ++i)
    if (run(&loop, 1 + i % 50) || ran_once(&loop) < 1) return 4;
  return 0;
}

static long processor_milliseconds(void) {
  struct rusage used;
  getrusage(RUSAGE_THREAD, &used);
  return used.ru_utime.tv_sec * 1000 + used.ru_utime.tv_usec / 1000 +
         used.ru_stime.tv_sec * 1000 + used.ru_stime.tv_usec / 1000;
}

/* One that takes 300 ms of sleep for its task: the caller sleeps meanwhile, and then goes alone. */
static int a_slow_worker_is_left_alone(void) {
  static Loop loop;
  sepify_make_threads(2);
  sepify_use_threads(2);
  loop.pause = 300000;
  for (int i = 0; i < 1000; ++i) {
    long before = processor_milliseconds();
    if (run(&loop, 8) || ran_once(&loop) != 8) return 2;
    if (!loop.by_workers) continue; /* it has not come yet */
    if (processor_milliseconds() - before > 150) return 3;
    for (int k = 0; k < 100; ++k)
      if (run(&loop, 1) || loop.by_workers) return 4;
    return 0;
  }
  return 5;
}

static int workers_come_back(void) {
  static Loop loop;
  sepify_make_threads(2);
  sepify_use_threads(2);
  loop.pause = 100000;
  for (int times = 0, i = 0; times < 2; ++i) {
    if (i == 20000 || run(&loop, 8)) return 2;
    if (loop.by_workers) ++times, loop.pause = 1000;
  }
  return 0;
}

static int nested(int number, SepifyParallel *environment, void *closure) {
  static Loop inner[8];
  (void)environment, (void)closure;
  return run(&inner[number], 5) || ran_once(&inner[number]) != 5;
}

static int a_loop_in_a_loop_runs_alone(void) {
  sepify_make_threads(3);
  sepify_use_threads(3);
  for (int i = 0; i < 500; ++i)
    if (sepify_parallel(nested, NULL, 8)) return 2;
  return 0;
}

static int a_child_process_has_threads_of_its_own(void) {
  static Loop loop;
  sepify_make_threads(4);
  sepify_use_threads(4);
  for (int i = 0; i < 20; ++i) {
    if (run(&loop, 30) || ran_once(&loop) != 30) return 2;
    pid_t child = fork();
    if (!child) {
      loop.pause = 1000;
      for (int k = 0; k < 2000; ++k) {
        if (run(&loop, 30) || ran_once(&loop) != 30) _exit(3);
        if (loop.by_workers) _exit(0);
      }
      _exit(4);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || status) return 5;
  }
  return 0;
}

static int numbers_that_cannot_be(void) {
  return sepify_make_threads(0) || sepify_make_threads(SEPIFY_MOST_THREADS + 1) ||
         sepify_make_threads(-1);
}

int main(int count, char **arguments) {
  static const struct {
    const char *name;
    int (*run)(void);
  } cases[] = {
      {"every_task_runs_once", every_task_runs_once},
      {"held_workers_hold_nobody_up", held_workers_hold_nobody_up},
      {"a_slow_worker_is_left_alone", a_slow_worker_is_left_alone},
      {"workers_come_back", workers_come_back},
      {"a_loop_in_a_loop_runs_alone", a_loop_in_a_loop_runs_alone},
      {"a_child_process_has_threads_of_its_own", a_child_process_has_threads_of_its_own},
      {"numbers_that_cannot_be", numbers_that_cannot_be},
  };
  alarm(100);
  for (size_t i = 0; count == 2 && i < sizeof cases / sizeof *cases; ++i)
    if (!strcmp(arguments[1], cases[i].name)) return cases[i].run();
  return 100;
}
