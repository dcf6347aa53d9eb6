#include "sepify_threads.h"

#ifndef SEPIFY_THREADS

int sepify_make_threads(int threads) { return threads == 1; }
void sepify_use_threads(int threads) { (void)threads; }
int sepify_thread(void) { return 0; }

int sepify_parallel(SepifyTask task, void *closure, int tasks) {
  SepifyParallel environment = {0, tasks > 0 ? tasks : 1};
  for (int i = 0; i < environment.tasks; ++i)
    if (task(i, &environment, closure)) return -1;
  return 0;
}

#else

#include <pthread.h>
#include <stdatomic.h>

/* looks at the work again before a thread sleeps: layers follow each other within microseconds */
enum { SPINS = 20000 };

static struct {
  pthread_mutex_t lock;
  pthread_cond_t wake, done;
  int made; /* threads, the caller of run among them */
  int used;
  atomic_uint round; /* of work; moves on when there is some */
  atomic_int working;
  atomic_int failed;
  atomic_int waits; /* the caller sleeps until `working` is 0 */
  SepifyTask task;
  void *closure;
  int tasks;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER, .made = 1, .used = 1};

static _Thread_local int number;
static unsigned first_round[SEPIFY_MOST_THREADS]; /* that a thread has not seen yet, less one */

int sepify_thread(void) { return number; }

static void work(int threads) {
  SepifyParallel environment = {0, pool.tasks};
  for (int i = number; i < pool.tasks; i += threads)
    if (pool.task(i, &environment, pool.closure)) atomic_store(&pool.failed, 1);
}

static void *serve(void *argument) {
  number = (int)(intptr_t)argument;
  unsigned seen = first_round[number];
  for (;;) {
    for (int spin = 0; spin < SPINS && atomic_load(&pool.round) == seen; ++spin) {
    }
    if (atomic_load(&pool.round) == seen) {
      pthread_mutex_lock(&pool.lock);
      while (atomic_load(&pool.round) == seen) pthread_cond_wait(&pool.wake, &pool.lock);
      pthread_mutex_unlock(&pool.lock);
    }
    seen = atomic_load(&pool.round);
    if (number < pool.used) work(pool.used);
    /* the last one counts down before it looks for a sleeper, and the caller says that it sleeps
     * before it looks at the count: one of the two sees the other */
    if (atomic_fetch_sub(&pool.working, 1) == 1 && atomic_load(&pool.waits)) {
      pthread_mutex_lock(&pool.lock);
      pthread_cond_signal(&pool.done);
      pthread_mutex_unlock(&pool.lock);
    }
  }
  return 0;
}

int sepify_make_threads(int threads) {
  if (threads < 1 || threads > SEPIFY_MOST_THREADS) return 0;
  while (pool.made < threads) {
    pthread_t thread;
    first_round[pool.made] = atomic_load(&pool.round);
    if (pthread_create(&thread, 0, serve, (void *)(intptr_t)pool.made)) return 0;
    pthread_detach(thread);
    ++pool.made;
  }
  return 1;
}

void sepify_use_threads(int threads) { pool.used = threads; }

int sepify_parallel(SepifyTask task, void *closure, int tasks) {
  pool.task = task;
  pool.closure = closure;
  pool.tasks = tasks > 0 ? tasks : pool.used;
  atomic_store(&pool.failed, 0);
  if (pool.used == 1) {
    work(1);
    return -atomic_load(&pool.failed);
  }
  atomic_store(&pool.working, pool.made - 1);
  pthread_mutex_lock(&pool.lock);
  atomic_fetch_add(&pool.round, 1);
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.lock);
  work(pool.used);
  for (int spin = 0; spin < SPINS && atomic_load(&pool.working); ++spin) {
  }
  if (atomic_load(&pool.working)) {
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.waits, 1);
    while (atomic_load(&pool.working)) pthread_cond_wait(&pool.done, &pool.lock);
    atomic_store(&pool.waits, 0);
    pthread_mutex_unlock(&pool.lock);
  }
  return -atomic_load(&pool.failed);
}

#endif
