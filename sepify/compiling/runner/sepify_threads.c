/* A pool that a busy neighbour cannot hold up. No thread is dealt a task: threads take them, each
 * from its own share first and then from the others', so that the caller does all that its workers
 * do not get to. It waits only for tasks that were begun. A worker looks for work for a while and
 * then sleeps.
 *
 * What is left is a worker that loses its core in the middle of a task. After that the caller goes
 * on alone, for as long as it had to wait, and then tries again; for twice as long each time that
 * this happens again soon. So a core that is gone for once costs little, and so does one that a
 * neighbour takes again and again. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "sepify_threads.h"

const int sepify_threads_interface = 1;

static int run_alone(SepifyTask task, void *closure, int tasks) {
  SepifyParallel environment = {0, tasks > 0 ? tasks : 1};
  for (int i = 0; i < environment.tasks; ++i)
    if (task(i, &environment, closure)) return -1;
  return 0;
}

#ifndef SEPIFY_THREADS

int sepify_make_threads(int threads) { return threads == 1; }
void sepify_use_threads(int threads) { (void)threads; }
int sepify_used_threads(void) { return 1; }
void sepify_hand_over_errors(const SepifyErrors *errors) { (void)errors; }
int sepify_thread(void) { return 0; }

int sepify_parallel(SepifyTask task, void *closure, int tasks) {
  return run_alone(task, closure, tasks);
}

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#ifdef SEPIFY_OLD_GLIBC /* its first version of this: newer ones are not in older systems */
#if defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.17");
#endif
#endif

#ifndef SEPIFY_BEFORE_TAKING
#define SEPIFY_BEFORE_TAKING(thread) ((void)0) /* for tests */
#endif

/* Nanoseconds; chosen by benchmarks/threads.py. Layers follow each other within microseconds, and
 * inferences within tens of them. */
enum {
  WORKER_LOOKS = 100000, /* for work, before it sleeps */
  CALLER_LOOKS = 100000, /* whether begun tasks are done, before it sleeps */
  LATE = 20000,          /* a worker is, so long after its last task should have been done */
  MOST_TIMES = 16,       /* the caller goes on alone for 1 to so many times what it waited, */
  SOON = 4,              /* more each time that not so many times that have gone well since, */
  LEAST_ALONE = 200000,  /* between these */
  MOST_ALONE = 250000000
};
/* tasks for each thread where the loop leaves the number open: two cost what one does, and halve
 * what a late worker holds up */
enum { TASKS_EACH = 2, MOST_UNITS = 2048 };

/* A thread's share of the tasks: from `next` up to `end`. With `used` in the same word nobody takes
 * what was not meant for it: whoever is late may look at a later loop's ticket, which is as good. */
#define TICKET(used, end, next) ((unsigned)(used) << 24 | (unsigned)(end) << 12 | (unsigned)(next))
#define USED(ticket) ((int)((ticket) >> 24))
#define END(ticket) ((ticket) >> 12 & 4095)
#define NEXT(ticket) ((ticket) & 4095)

typedef struct {
  _Alignas(64) atomic_uint ticket;
  _Alignas(64) atomic_uint asleep; /* the thread whose share it is */
} Share;

static struct {
  /* the loop: written while nobody holds a task, read by who took one */
  SepifyTask task;
  void *closure;
  SepifyParallel environment;
  int units; /* that the tasks are taken in, where there are very many */
  /* the caller's */
  atomic_flag busy;
  long long alone_until;
  long long times; /* that it goes alone for what it waited */
  /* set from outside */
  pthread_mutex_t making;
  atomic_int made; /* threads, the caller among them */
  atomic_int used;
  const SepifyErrors *errors;
  /* between threads */
  _Alignas(64) atomic_uint round; /* moves on when there is work */
  _Alignas(64) atomic_uint finished; /* units, by workers */
  atomic_int waits;                  /* the caller sleeps until they are */
  atomic_int failed;
  void *_Atomic error;
  Share shares[SEPIFY_MOST_THREADS];
} pool = {.busy = ATOMIC_FLAG_INIT, .making = PTHREAD_MUTEX_INITIALIZER, .made = 1, .used = 1};

static _Thread_local int number;

int sepify_thread(void) { return number; }

static long long nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1000000000LL * now.tv_sec + now.tv_nsec;
}

static void pause_core(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || (defined(__ARM_ARCH) && __ARM_ARCH >= 7)
  __asm__ __volatile__("yield");
#endif
}

#if defined(__linux__) && !defined(SEPIFY_NO_FUTEX)

#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static void name_thread(void) { prctl(PR_SET_NAME, "sepify worker"); }

/* sleep while `word` is `value`; it may return early */
static void sleep_on(atomic_uint *word, unsigned value) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, 0, 0, 0);
}

static void wake(atomic_uint *word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0); }

static void hold_sleepers(void) {}
static void let_sleepers_go(int forget) { (void)forget; }

#else

static void name_thread(void) {}

static pthread_mutex_t sleeping = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t woken = PTHREAD_COND_INITIALIZER;

static void sleep_on(atomic_uint *word, unsigned value) {
  pthread_mutex_lock(&sleeping);
  if (atomic_load(word) == value) pthread_cond_wait(&woken, &sleeping);
  pthread_mutex_unlock(&sleeping);
}

static void wake(atomic_uint *word) {
  (void)word;
  pthread_mutex_lock(&sleeping);
  pthread_cond_broadcast(&woken);
  pthread_mutex_unlock(&sleeping);
}

static void hold_sleepers(void) { pthread_mutex_lock(&sleeping); }

static void let_sleepers_go(int forget) {
  if (forget) woken = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
  pthread_mutex_unlock(&sleeping);
}

#endif

static void note_failure(void) {
  const SepifyErrors *errors = pool.errors;
  atomic_store(&pool.failed, 1);
  if (!errors) return;
  void *raised = 0, *none = 0;
  errors->take(&raised);
  if (raised && !atomic_compare_exchange_strong(&pool.error, &none, raised))
    errors->release(raised); /* the first is told */
}

static void run_unit(unsigned unit) {
  long long tasks = pool.environment.tasks;
  int end = (int)(tasks * (unit + 1) / pool.units);
  for (int i = (int)(tasks * unit / pool.units); i < end; ++i)
    if (pool.task(i, &pool.environment, pool.closure)) note_failure();
}

/* Take units as long as there are any; how many were. */
static unsigned work(void) {
  unsigned done = 0;
  for (int i = 0, used = number + 1; i < used; ++i) {
    SEPIFY_BEFORE_TAKING(number);
    atomic_uint *ticket = &pool.shares[(number + i) % used].ticket;
    unsigned seen = atomic_load(ticket);
    while (number < USED(seen) && NEXT(seen) < END(seen)) {
      if (!atomic_compare_exchange_weak(ticket, &seen, seen + 1)) continue;
      run_unit(NEXT(seen));
      ++done;
      seen = atomic_load(ticket);
    }
    used = USED(seen);
  }
  return done;
}

/* Look for work, then sleep until there is some. */
static void wait_for_work(unsigned seen) {
  atomic_uint *asleep = &pool.shares[number].asleep;
  long long until = nanoseconds() + WORKER_LOOKS;
  for (int i = 1; atomic_load(&pool.round) == seen; ++i) {
    pause_core();
    if (i % 32) continue;
    sched_yield(); /* to whoever needs this core, the caller perhaps */
    if (nanoseconds() < until) continue;
    /* it says that it sleeps before it looks a last time, and the caller moves the round on before
     * it looks for sleepers: one of the two sees the other */
    atomic_store(asleep, 1);
    if (atomic_load(&pool.round) != seen) atomic_store(asleep, 0);
    while (atomic_load(asleep)) sleep_on(asleep, 1);
  }
}

static void *serve(void *argument) {
  number = (int)(intptr_t)argument;
  name_thread();
  for (unsigned seen = atomic_load(&pool.round);;) {
    wait_for_work(seen);
    seen = atomic_load(&pool.round);
    unsigned done = work();
    if (!done) continue;
    /* the last one counts before it looks for a sleeper: as above */
    atomic_fetch_add(&pool.finished, done);
    if (atomic_load(&pool.waits)) wake(&pool.finished);
  }
  return 0;
}

static void before_fork(void) {
  pthread_mutex_lock(&pool.making);
  hold_sleepers();
}

static void after_fork(void) {
  let_sleepers_go(0);
  pthread_mutex_unlock(&pool.making);
}

/* the child has none of our threads: new ones are made for its next loop */
static void after_fork_in_child(void) {
  atomic_flag_clear(&pool.busy);
  atomic_store(&pool.made, 1);
  for (int i = 0; i < SEPIFY_MOST_THREADS; ++i) {
    atomic_store(&pool.shares[i].ticket, 0);
    atomic_store(&pool.shares[i].asleep, 0);
  }
  let_sleepers_go(1);
  pthread_mutex_unlock(&pool.making);
}

int sepify_make_threads(int threads) {
  static int told_of_forks;
  if (threads < 1 || threads > SEPIFY_MOST_THREADS) return 0;
  pthread_mutex_lock(&pool.making);
  if (!told_of_forks && threads > 1)
    told_of_forks = !pthread_atfork(before_fork, after_fork, after_fork_in_child);
  sigset_t all, before; /* signals are for the application's own threads */
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &before);
  while (atomic_load(&pool.made) < threads) {
    pthread_t thread;
    if (pthread_create(&thread, 0, serve, (void *)(intptr_t)atomic_load(&pool.made))) break;
    atomic_fetch_add(&pool.made, 1);
  }
  sigprocmask(SIG_SETMASK, &before, 0);
  int enough = atomic_load(&pool.made) >= threads;
  pthread_mutex_unlock(&pool.making);
  return enough;
}

void sepify_use_threads(int threads) { atomic_store(&pool.used, threads); }
int sepify_used_threads(void) { return atomic_load(&pool.used); }
void sepify_hand_over_errors(const SepifyErrors *errors) { pool.errors = errors; }

/* It did not pay to work together. */
static void go_alone(long long now, long long waited) {
  int soon = now - waited - pool.alone_until < SOON * waited;
  pool.times = !soon || !pool.times ? 1 : pool.times < MOST_TIMES ? 2 * pool.times : MOST_TIMES;
  long long alone = pool.times * waited;
  if (alone < LEAST_ALONE) alone = LEAST_ALONE;
  if (alone > MOST_ALONE) alone = MOST_ALONE;
  pool.alone_until = now + alone;
}

static void publish(SepifyTask task, void *closure, int tasks, int used) {
  pool.task = task;
  pool.closure = closure;
  pool.environment.tasks = tasks > 0 ? tasks : used * TASKS_EACH;
  int units = pool.environment.tasks < MOST_UNITS ? pool.environment.tasks : MOST_UNITS;
  pool.units = units;
  atomic_store(&pool.failed, 0);
  atomic_store(&pool.error, (void *)0);
  atomic_store(&pool.finished, 0);
  for (int i = 0; i < used; ++i) {
    unsigned first = (unsigned)(units * i / used), end = (unsigned)(units * (i + 1) / used);
    atomic_store_explicit(&pool.shares[i].ticket, TICKET(used, end, first), memory_order_release);
  }
  atomic_fetch_add(&pool.round, 1);
  for (int i = 1; i < used; ++i) {
    atomic_uint *asleep = &pool.shares[i].asleep;
    if (atomic_load(asleep) && atomic_exchange(asleep, 0)) wake(asleep);
  }
}

/* Wait until workers have finished `theirs`; the time then. */
static long long wait_for_workers(unsigned theirs, long long from) {
  long long now = from;
  unsigned looks = 0;
  for (unsigned have; (have = atomic_load(&pool.finished)) != theirs; now = nanoseconds()) {
    pause_core();
    if (++looks % 32 == 0) sched_yield(); /* to the worker, if it needs this core */
    if (now - from < CALLER_LOOKS) continue;
    atomic_store(&pool.waits, 1); /* the core is for the worker, if this is the one it needs */
    while ((have = atomic_load(&pool.finished)) != theirs) sleep_on(&pool.finished, have);
    atomic_store(&pool.waits, 0);
  }
  return now;
}

int sepify_parallel(SepifyTask task, void *closure, int tasks) {
  int used = atomic_load(&pool.used);
  if (used < 2 || atomic_flag_test_and_set(&pool.busy)) return run_alone(task, closure, tasks);
  long long start = nanoseconds();
  if (start < pool.alone_until || (atomic_load(&pool.made) < used && !sepify_make_threads(used))) {
    atomic_flag_clear(&pool.busy);
    return run_alone(task, closure, tasks);
  }
  publish(task, closure, tasks, used);
  unsigned mine = work(), theirs = (unsigned)pool.units - mine;
  if (atomic_load(&pool.finished) != theirs) {
    long long worked = nanoseconds(), now = wait_for_workers(theirs, worked);
    long long each = (worked - start) / (mine ? mine : 1);
    if (now - worked > 2 * each + LATE) go_alone(now, now - worked);
  }
  int failed = atomic_load(&pool.failed);
  void *error = atomic_load(&pool.error);
  const SepifyErrors *errors = pool.errors;
  atomic_flag_clear(&pool.busy);
  if (failed && error) {
    errors->raise(error);
    errors->release(error);
  } else if (failed && errors) {
    errors->say("RuntimeError", "a task of a parallel loop failed");
  }
  return -failed;
}

#endif
