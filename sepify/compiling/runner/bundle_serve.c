/* An RPC server for tuning and timing on this board, small enough to be read before it is run.
 *
 *   serve --secret FILE [--host 127.0.0.1] [--port 9090] [--key board] [--limit 60]
 *         [--tracker HOST:PORT [--name ADDRESS]]
 *
 * Whoever knows the secret may run any code on this board as the user that started this: that is
 * what tuning is. It speaks TVM's RPC protocol (tvm/rpc/server.py) over plain TCP, the secret in
 * clear: keep it on loopback and come in through ssh, or on a network of your own.
 *
 * Whoever connects has seconds in all to name key and secret, many side by side, and none of them
 * can hold up another. Those who know the secret are served one at a time, or times would mean
 * nothing, each in a process of its own: only there are the bundle's files checked and TVM loaded. It
 * is killed when its time is up, and a candidate that crashes takes nothing else down. A process of
 * its own talks to the tracker, whose silence delays nobody. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bundle_describe.h"
#include "bundle_model.h"
#include "bundle_threads.h"
#include "bundle_tvm.h"

enum {
  MAGIC = 0xff271,
  MISMATCH = MAGIC + 2,
  TRACKER_MAGIC = 0x2f271,
  PUT = 3,
  UPDATE_INFO = 5,
  PENDING = 7,
  HANDSHAKE_SECONDS = 5, /* in all, however slowly the bytes come */
  CALLERS = 64,          /* at once; of more, the one that said nothing for longest has to go */
  ADMITTED = 16,         /* callers that know the secret and wait for their turn */
  SILENCE_SECONDS = 10,  /* of a tracker */
  TRACKER_SECONDS = 2,  /* between looks at the tracker */
  UNUSED_PERIODS = 20   /* a match key taken that long ago and not used is replaced: whoever has
                           it may be compiling */
};

static struct {
  const char *host, *key, *secret_file, *tracker, *name;
  int port, limit;
} options = {"127.0.0.1", "board", NULL, NULL, NULL, 9090, 60};

static char folder[4096], secret[256], match[160], why[512];
static char work[] = "/tmp/sepify-serve-XXXXXX";
static volatile sig_atomic_t ended;
static int wake[2]; /* written to when a signal came, so that poll returns */

static void end(int signal_number) {
  int before = errno;
  if (signal_number != SIGCHLD) ended = 1;
  if (write(wake[1], "", 1) < 0) errno = before; /* full: it is awake already */
  errno = before;
}

static void say(const char *format, ...) {
  struct pollfd output = {.fd = STDOUT_FILENO, .events = POLLOUT};
  va_list rest;
  if (poll(&output, 1, 0) <= 0) return; /* nobody reads: no caller may stop the server by that */
  va_start(rest, format);
  vprintf(format, rest);
  va_end(rest);
  fflush(stdout);
}

static int take(int socket_, void *to, size_t size) {
  char *at = to;
  while (size) {
    ssize_t got = read(socket_, at, size);
    if (got <= 0) return -1;
    at += got;
    size -= (size_t)got;
  }
  return 0;
}

static int give(int socket_, const void *from, size_t size) {
  const char *at = from;
  while (size) {
    ssize_t put = send(socket_, at, size, MSG_NOSIGNAL);
    if (put <= 0) return -1;
    at += put;
    size -= (size_t)put;
  }
  return 0;
}

/* in a time that does not tell how much of it was right */
static int same(const char *a, const char *b) {
  size_t n = strlen(a);
  unsigned char different = n != strlen(b);
  for (size_t i = 0; i < n; ++i) different |= (unsigned char)(a[i] ^ b[i % (strlen(b) + 1)]);
  return !different;
}

/* --- callers: connections that have not said everything yet, or wait for their turn ----------- */

static struct caller {
  int socket, limit; /* limit: the seconds of its session, once it is admitted */
  time_t since;
  size_t got;
  char said[8 + 1024]; /* magic, size, "client:MATCH -secret=S -timeout=T" */
} callers[CALLERS];
static int count_of_callers; /* in the order in which they came */

static time_t now(void) {
  struct timespec moment;
  clock_gettime(CLOCK_MONOTONIC, &moment);
  return moment.tv_sec;
}

/* out of the list; its socket stays open */
static void forget(int which) {
  --count_of_callers;
  memmove(callers + which, callers + which + 1,
          sizeof *callers * (size_t)(count_of_callers - which));
}

static void turn_away(int which) {
  close(callers[which].socket);
  forget(which);
}

/* the seconds that a session may take, or 0 where it is refused */
static int admitted(char *text) {
  char wanted[200], direct[200];
  const char *given = "";
  int limit = options.limit;
  snprintf(wanted, sizeof wanted, "client:%s", match);
  snprintf(direct, sizeof direct, "client:%s", options.key);
  char *rest = NULL, *head = strtok_r(text, " ", &rest);
  for (char *word; (word = strtok_r(NULL, " ", &rest));) {
    if (!strncmp(word, "-secret=", 8)) given = word + 8;
    if (!strncmp(word, "-timeout=", 9) && atoi(word + 9) > 0 && atoi(word + 9) < limit)
      limit = atoi(word + 9);
  }
  int right = same(secret, given);
  if (right && head && !strcmp(head, direct)) return limit;
  if (right && head && *match && !strcmp(head, wanted)) {
    *match = 0; /* a tracker's key is good for one session */
    return limit;
  }
  say("refused: %s\n", right ? "another key" : "wrong secret");
  return 0;
}

/* what a caller has sent; -1 where it is to be turned away */
static int hear(struct caller *caller) {
  int32_t magic, size;
  char more;
  if (caller->limit) /* it waits: all that it may do is leave */
    return recv(caller->socket, &more, 1, MSG_PEEK) ? 0 : -1;
  size_t wanted = 8;
  if (caller->got >= 8) {
    memcpy(&size, caller->said + 4, 4);
    wanted += (size_t)size;
  }
  ssize_t got = recv(caller->socket, caller->said + caller->got, wanted - caller->got, 0);
  if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
  caller->got += (size_t)got;
  if (caller->got == 8) {
    memcpy(&magic, caller->said, 4);
    memcpy(&size, caller->said + 4, 4);
    return magic == MAGIC && size > 0 && size < (int32_t)sizeof caller->said - 8 ? 0 : -1;
  }
  if (caller->got < wanted || wanted == 8) return 0;
  caller->said[wanted] = 0;
  int waiting = 0;
  for (int i = 0; i < count_of_callers; ++i) waiting += callers[i].limit > 0;
  caller->limit = strlen(caller->said + 8) == wanted - 8 ? admitted(caller->said + 8) : 0;
  if (caller->limit && waiting < ADMITTED) return 0;
  magic = MISMATCH;
  if (!caller->limit) give(caller->socket, &magic, 4);
  return -1;
}

static void let_in(int listening) {
  int socket_ = accept(listening, NULL, NULL);
  if (socket_ < 0) {
    if (errno != EAGAIN && errno != EINTR) usleep(10000); /* out of descriptors, say */
    return;
  }
  for (int i = 0; i < count_of_callers && count_of_callers == CALLERS; ++i)
    if (!callers[i].limit) turn_away(i);
  fcntl(socket_, F_SETFL, O_NONBLOCK);
  callers[count_of_callers++] = (struct caller){.socket = socket_, .since = now()};
}

/* --- a session, in a process of its own ------------------------------------------------------- */

static char session_folder[64];

/* where an uploaded file goes: never out of the session's own folder */
static int place_of(const TVMFFIAny *argument, char *path, size_t room) {
  const char *name = NULL;
  if (argument->type_index == kTVMFFIRawStr) name = argument->v_c_str;
  if (argument->type_index == kTVMFFISmallStr) name = argument->v_bytes;
  if (argument->type_index == kTVMFFIStr)
    name = ((const TVMFFIByteArray *)((const char *)argument->v_obj + sizeof(TVMFFIObject)))->data;
  if (!name || !*name || strchr(name, '/') || *name == '.')
    return sepify_raise("a file's name must be plain");
  snprintf(path, room, "%s/%s", session_folder, name);
  return 0;
}

static int work_path(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  static char path[400];
  (void)self;
  if (count != 1) return sepify_raise("one name is wanted");
  if (place_of(arguments, path, sizeof path)) return -1;
  return sepify_owned_text(path, result);
}

static int load_module(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  char path[400];
  (void)self;
  if (count != 1) return sepify_raise("one name is wanted");
  if (place_of(arguments, path, sizeof path)) return -1;
  TVMFFIAny argument = sepify_text(path);
  if (sepify_call_global("ffi.ModuleLoadFromFile", &argument, 1, result, why, sizeof why))
    return sepify_raise(why);
  return 0;
}

static int describe(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  (void)self;
  (void)arguments;
  (void)count;
  return sepify_owned_text(sepify_describe(), result);
}

static void serve(int socket_, int limit) {
  char name[200];
  int32_t magic = MAGIC, size = (int32_t)snprintf(name, sizeof name, "server:%s", options.key);
  alarm((unsigned)limit);
  fcntl(socket_, F_SETFL, 0);
  if (give(socket_, &magic, 4) || give(socket_, &size, 4) || give(socket_, name, (size_t)size))
    _exit(3);
  signal(SIGPIPE, SIG_IGN); /* a client that leaves is no crash */
  snprintf(session_folder, sizeof session_folder, "%s/%d", work, (int)getpid());
  TVMFFIAny number = sepify_number(socket_), nothing;
  if (mkdir(session_folder, 0700) ||
      sepify_load_tvm(folder, sepify_bundle.features, why, sizeof why) ||
      sepify_install_threads(0, why, sizeof why) || sepify_serve_threads(why, sizeof why) ||
      sepify_set_global("tvm.rpc.server.workpath", work_path, why, sizeof why) ||
      sepify_set_global("tvm.rpc.server.load_module", load_module, why, sizeof why) ||
      sepify_set_global("sepify.board", describe, why, sizeof why) ||
      sepify_call_global("rpc.ServerLoop", &number, 1, &nothing, why, sizeof why)) {
    say("session failed: %s\n", why);
    _exit(4);
  }
  _exit(0);
}

static void remove_session(pid_t child) {
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s/%d", work, (int)child);
  if (system(command)) say("cannot remove the session's files\n");
}

/* in a child: nothing of what the server holds, and no life after it */
static void start_child(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  signal(SIGCHLD, SIG_DFL);
  for (int i = 0; i < 2; ++i) close(wake[i]);
}

/* the process that serves the first admitted caller; 0 where there is none */
static pid_t start_session(int listening, int keys, int used) {
  int which = 0;
  while (which < count_of_callers && !callers[which].limit) ++which;
  if (which == count_of_callers) return 0;
  struct caller *caller = &callers[which];
  pid_t parent = getpid(), child = fork();
  if (child == 0) {
    start_child(parent);
    close(listening);
    if (keys >= 0) close(keys);
    if (used >= 0) close(used);
    for (int i = 0; i < count_of_callers; ++i)
      if (i != which) close(callers[i].socket);
    serve(caller->socket, caller->limit);
  }
  turn_away(which);
  return child < 0 ? 0 : child;
}

static void end_session(pid_t child, int status) {
  if (WIFSIGNALED(status))
    say(WTERMSIG(status) == SIGALRM ? "session: its time was up\n" : "session: crashed (%d)\n",
        WTERMSIG(status));
  remove_session(child);
}

/* --- the tracker ----------------------------------------------------------------------------- */

static void new_match(void) {
  unsigned char random[8] = {0};
  FILE *file = fopen("/dev/urandom", "rb");
  if (file) {
    if (fread(random, 1, sizeof random, file) != sizeof random) random[0] ^= (unsigned char)time(0);
    fclose(file);
  }
  int at = snprintf(match, sizeof match, "%s:", options.key);
  for (size_t i = 0; i < sizeof random; ++i)
    at += snprintf(match + at, sizeof match - (size_t)at, "%02x", random[i]);
}

static int connect_to(const char *address) {
  char host[256];
  const char *colon = strrchr(address, ':');
  if (!colon || (size_t)(colon - address) >= sizeof host) return -1;
  memcpy(host, address, (size_t)(colon - address));
  host[colon - address] = 0;
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
  if (getaddrinfo(host, colon + 1, &hints, &found)) return -1;
  int socket_ = socket(found->ai_family, SOCK_STREAM, 0);
  struct timeval silence = {.tv_sec = SILENCE_SECONDS};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
  setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &silence, sizeof silence);
  if (socket_ >= 0 && connect(socket_, found->ai_addr, found->ai_addrlen)) {
    close(socket_);
    socket_ = -1;
  }
  freeaddrinfo(found);
  return socket_;
}

/* one message of JSON, and the answer */
static int ask(int tracker, const char *message, char *answer, size_t room) {
  int32_t size = (int32_t)strlen(message);
  if (give(tracker, &size, 4) || give(tracker, message, (size_t)size) || take(tracker, &size, 4))
    return -1;
  if (size < 0 || (size_t)size >= room || take(tracker, answer, (size_t)size)) return -1;
  answer[size] = 0;
  return 0;
}

static int keys_to_server; /* a pipe: the server knows a key before the tracker gives it away */

static int offer(int tracker) {
  char message[600], answer[64], name[128] = "null";
  new_match();
  if (write(keys_to_server, match, sizeof match) != (ssize_t)sizeof match) _exit(0);
  if (options.name) snprintf(name, sizeof name, "\"%s\"", options.name);
  snprintf(message, sizeof message, "[%d, \"%s\", [%d, \"%s\"], %s]", PUT, options.key,
           options.port, match, name);
  return ask(tracker, message, answer, sizeof answer) || strcmp(answer, "0") ? -1 : 0;
}

static int join_tracker(void) {
  int tracker = connect_to(options.tracker);
  int32_t magic = TRACKER_MAGIC;
  char message[600], answer[64], name[128] = "null";
  if (options.name) snprintf(name, sizeof name, "\"%s\"", options.name);
  snprintf(message, sizeof message, "[%d, {\"key\": \"server:%s\", \"addr\": [%s, %d]}]",
           UPDATE_INFO, options.key, name, options.port);
  if (tracker < 0) return -1;
  if (give(tracker, &magic, 4) || take(tracker, &magic, 4) || magic != TRACKER_MAGIC ||
      ask(tracker, message, answer, sizeof answer) || offer(tracker)) {
    close(tracker);
    return -1;
  }
  return tracker;
}

/* whether the tracker still has our match key to give away; -1 where the tracker is gone */
static int is_pending(int tracker) {
  static char answer[1 << 16];
  char message[16], quoted[200];
  snprintf(message, sizeof message, "[%d]", PENDING);
  if (ask(tracker, message, answer, sizeof answer)) return -1;
  snprintf(quoted, sizeof quoted, "\"%s\"", match);
  return strstr(answer, quoted) != NULL;
}

/* keeps us known to the tracker; `used` tells of a session that has ended, and its key with it */
static void talk_to_tracker(int used) {
  int tracker = -1, unused = 0;
  for (;;) {
    if (tracker < 0) {
      tracker = join_tracker();
      if (tracker < 0) {
        sleep(TRACKER_SECONDS); /* it may come back */
        continue;
      }
      say("registered with %s\n", options.tracker);
      unused = 0;
    }
    struct pollfd told = {.fd = used, .events = POLLIN};
    char byte;
    int ended_session = poll(&told, 1, 1000 * TRACKER_SECONDS) > 0;
    if (ended_session && read(used, &byte, 1) != 1) _exit(0);
    int pending = is_pending(tracker);
    unused = ended_session ? UNUSED_PERIODS + 1 : pending == 0 ? unused + 1 : 0;
    if (pending < 0 || (ended_session && pending) || (unused > UNUSED_PERIODS && offer(tracker))) {
      close(tracker);
      tracker = -1;
    } else if (unused > UNUSED_PERIODS) {
      unused = 0;
    }
  }
}

static pid_t start_tracker(int listening, int *keys, int *used) {
  int to_server[2], to_tracker[2];
  if (pipe(to_server) || pipe(to_tracker)) return -1;
  pid_t parent = getpid(), child = fork();
  if (child == 0) {
    start_child(parent);
    close(listening);
    close(to_server[0]);
    close(to_tracker[1]);
    keys_to_server = to_server[1];
    talk_to_tracker(to_tracker[0]);
  }
  close(to_server[1]);
  close(to_tracker[0]);
  fcntl(to_server[0], F_SETFL, O_NONBLOCK);
  fcntl(to_tracker[1], F_SETFL, O_NONBLOCK);
  *keys = to_server[0];
  *used = to_tracker[1];
  return child;
}

/* --- the server ------------------------------------------------------------------------------- */

/* waits until something happens, and hears whoever has something to say */
static void listen_to_all(int listening, int keys) {
  struct pollfd all[3 + CALLERS] = {{.fd = wake[0], .events = POLLIN},
                                    {.fd = keys, .events = POLLIN},
                                    {.fd = listening, .events = POLLIN}};
  int known = count_of_callers, strangers = 0;
  char bytes[64], key[sizeof match];
  for (int i = 0; i < known; ++i) {
    all[3 + i] = (struct pollfd){.fd = callers[i].socket, .events = POLLIN};
    strangers += !callers[i].limit;
    if (callers[i].limit && callers[i].got == 0) all[3 + i].fd = -1;
  }
  if (poll(all, 3 + (nfds_t)known, strangers ? 1000 : -1) < 0) return;
  while (read(wake[0], bytes, sizeof bytes) > 0) {
  }
  while (keys >= 0 && read(keys, key, sizeof key) == (ssize_t)sizeof key)
    memcpy(match, key, sizeof match);
  for (int i = known - 1; i >= 0; --i) {
    struct caller *caller = &callers[i];
    int waits = caller->limit > 0, late = now() - caller->since >= HANDSHAKE_SECONDS;
    if ((!waits && late) || (all[3 + i].revents && hear(caller))) turn_away(i);
    else if (waits && all[3 + i].revents) caller->got = 0; /* it sent more, which can wait */
  }
  if (all[2].revents) let_in(listening);
}

static void run(int listening) {
  int keys = -1, used = -1, status = 0;
  pid_t session = 0, tracker = options.tracker ? start_tracker(listening, &keys, &used) : 0;
  while (!ended) {
    listen_to_all(listening, keys);
    if (session && waitpid(session, &status, WNOHANG) == session) {
      end_session(session, status);
      session = 0;
      if (used >= 0 && !*match && write(used, "", 1) < 0) say("the tracker is not told of a session's end\n");
    }
    if (!session && !ended) session = start_session(listening, keys, used);
  }
  for (pid_t *child = (pid_t[]){session, tracker, 0}; *child || child[1]; ++child)
    if (*child > 0) {
      kill(*child, SIGKILL);
      waitpid(*child, &status, 0);
    }
  if (session) remove_session(session);
}

/* --- starting -------------------------------------------------------------------------------- */

static int listen_on(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
  int listening = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
  if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) return -1;
  setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 128))
    return -1;
  socklen_t size = sizeof address;
  getsockname(listening, (struct sockaddr *)&address, &size); /* port 0 takes any */
  options.port = ntohs(address.sin_port);
  return listening;
}

static int read_secret(void) {
  FILE *file = options.secret_file ? fopen(options.secret_file, "r") : NULL;
  int read_ = file && fgets(secret, sizeof secret, file);
  if (file) fclose(file);
  secret[strcspn(secret, "\r\n")] = 0;
  return read_ && strlen(secret) >= 16 && !strchr(secret, ' ') ? 0 : -1;
}

static int is_plain(const char *text) {
  return *text && strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") ==
                      strlen(text) && strlen(text) < 100;
}

static int read_options(int count, char **arguments) {
  for (int i = 1; i < count; i += 2) {
    const char *name = arguments[i], *value = i + 1 < count ? arguments[i + 1] : NULL;
    if (!value) return -1;
    if (!strcmp(name, "--host")) options.host = value;
    else if (!strcmp(name, "--port")) options.port = atoi(value);
    else if (!strcmp(name, "--key")) options.key = value;
    else if (!strcmp(name, "--secret")) options.secret_file = value;
    else if (!strcmp(name, "--limit")) options.limit = atoi(value);
    else if (!strcmp(name, "--tracker")) options.tracker = value;
    else if (!strcmp(name, "--name")) options.name = value;
    else return -1;
  }
  return options.secret_file && options.limit > 0 && options.port >= 0 && options.port < 65536 &&
                 is_plain(options.key) && (!options.name || is_plain(options.name))
             ? 0 : -1;
}

int main(int count, char **arguments) {
  if (read_options(count, arguments)) {
    fprintf(stderr,
            "usage: %s --secret FILE [--host 127.0.0.1] [--port 9090] [--key board] [--limit 60]\n"
            "       [--tracker HOST:PORT [--name ADDRESS]]\n", arguments[0]);
    return 2;
  }
  if (read_secret()) {
    fprintf(stderr, "%s: its first line must be a secret of 16 characters or more\n",
            options.secret_file);
    return 1;
  }
  ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
  folder[length > 0 ? length : 0] = 0;
  char *slash = strrchr(folder, '/');
  if (slash) *slash = 0;
  int listening = listen_on();
  if (listening < 0 || !mkdtemp(work)) {
    fprintf(stderr, "cannot listen on %s:%d\n", options.host, options.port);
    return 1;
  }
  struct sigaction action = {.sa_handler = end};
  if (pipe(wake)) return 1;
  for (int i = 0; i < 2; ++i) fcntl(wake[i], F_SETFL, O_NONBLOCK);
  fcntl(listening, F_SETFL, O_NONBLOCK);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGCHLD, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  say("serving %s on %s:%d, key %s\n", sepify_bundle.target, options.host, options.port,
      options.key);
  run(listening);
  rmdir(work);
  return 0;
}
