/* An RPC server for tuning and timing on this board, small enough to be read before it is run.
 *
 *   serve --secret FILE [--host 127.0.0.1] [--port 9090] [--key board] [--limit 60]
 *         [--tracker HOST:PORT [--name ADDRESS]]
 *
 * Whoever knows the secret may run any code on this board as the user that started this: that is
 * what tuning is. It speaks TVM's RPC protocol (tvm/rpc/server.py) over plain TCP, the secret in
 * clear: keep it on loopback and come in through ssh, or on a network of your own.
 *
 * Each connection is a process of its own. It has seconds to name key and secret; only then are
 * the bundle's files checked and TVM loaded. It is killed when its time is up, and a candidate that
 * crashes takes nothing else down. One connection is served at a time, or times would mean nothing. */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
  HANDSHAKE_SECONDS = 10,
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

static void end(int signal_number) {
  (void)signal_number;
  ended = 1;
}

static void say(const char *format, ...) {
  va_list rest;
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

/* --- one connection, in a process of its own ------------------------------------------------- */

/* "client:MATCH -secret=S -timeout=T"; the seconds that it may take, or 0 where it is refused */
static int handshake(int socket_) {
  int32_t magic = 0, size = 0;
  char text[1024];
  if (take(socket_, &magic, 4) || magic != MAGIC || take(socket_, &size, 4)) return 0;
  if (size <= 0 || size >= (int32_t)sizeof text || take(socket_, text, (size_t)size)) return 0;
  text[size] = 0;
  char wanted[200];
  const char *given = "";
  int limit = options.limit;
  snprintf(wanted, sizeof wanted, "client:%s", match);
  char *rest = NULL, *head = strtok_r(text, " ", &rest);
  for (char *word; (word = strtok_r(NULL, " ", &rest));) {
    if (!strncmp(word, "-secret=", 8)) given = word + 8;
    if (!strncmp(word, "-timeout=", 9) && atoi(word + 9) > 0 && atoi(word + 9) < limit)
      limit = atoi(word + 9);
  }
  int right = same(secret, given);
  if (!head || strcmp(head, wanted) || !right) {
    say("refused: %s\n", right ? "another key" : "wrong secret");
    magic = MISMATCH;
    give(socket_, &magic, 4);
    return 0;
  }
  char name[200];
  size = (int32_t)snprintf(name, sizeof name, "server:%s", options.key);
  if (give(socket_, &magic, 4) || give(socket_, &size, 4) || give(socket_, name, (size_t)size))
    return 0;
  return limit;
}

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

static void serve(int socket_) {
  alarm(HANDSHAKE_SECONDS);
  int limit = handshake(socket_);
  if (!limit) _exit(3);
  alarm((unsigned)limit);
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

static void accept_one(int listening) {
  int socket_ = accept(listening, NULL, NULL);
  if (socket_ < 0) return;
  pid_t child = fork();
  if (child == 0) {
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    close(listening);
    serve(socket_);
  }
  close(socket_);
  if (child < 0) return;
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && !ended) {
  }
  if (ended) kill(child, SIGKILL);
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

static int offer(int tracker) {
  char message[600], answer[64], name[128] = "null";
  new_match();
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

static void serve_with_tracker(int listening) {
  int tracker = -1, unused = 0;
  while (!ended) {
    if (tracker < 0) {
      tracker = join_tracker();
      if (tracker < 0) {
        sleep(TRACKER_SECONDS); /* it may come back */
        continue;
      }
      say("registered with %s\n", options.tracker);
    }
    struct pollfd waiting = {.fd = listening, .events = POLLIN};
    int came = poll(&waiting, 1, 1000 * TRACKER_SECONDS);
    if (came > 0) {
      accept_one(listening);
      unused = UNUSED_PERIODS;
    }
    int pending = ended ? 1 : is_pending(tracker);
    unused = pending == 0 ? unused + 1 : 0;
    if (pending < 0 || (unused > UNUSED_PERIODS && offer(tracker))) {
      close(tracker);
      tracker = -1;
    } else if (unused > UNUSED_PERIODS) {
      unused = 0;
    }
  }
}

/* --- starting -------------------------------------------------------------------------------- */

static int listen_on(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
  int listening = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
  if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) return -1;
  setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(listening, (struct sockaddr *)&address, sizeof address) || listen(listening, 8))
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
  struct sigaction action = {.sa_handler = end}; /* without SA_RESTART: accept returns */
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  say("serving %s on %s:%d, key %s\n", sepify_bundle.target, options.host, options.port,
      options.key);
  if (options.tracker) {
    serve_with_tracker(listening);
  } else {
    snprintf(match, sizeof match, "%s", options.key);
    while (!ended) accept_one(listening);
  }
  rmdir(work);
  return 0;
}
