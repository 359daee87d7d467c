/* How long a daemon takes to start, as its first client sees it.
 *
 *     starting exec|activate SOCKET READERS LOG PROGRAM [ARGUMENT...]
 *
 * exec: starts the daemon, and tries to be its client from then on. activate: holds the socket, as systemd
 * does, connects, and starts the daemon with it when the connection is there.
 *
 * Prints lines of JSON: "pid" of the daemon, "socket" (a connection is accepted; exec only), "answer"
 * (SCardEstablishContext has come back) and "visible" (so many readers are listed, each with a card), in
 * milliseconds since the start or, with activate, since the client first tried; and "cpu", the milliseconds
 * of processor time that the daemon's own process had used until the answer. Stops the daemon at the end of
 * the input.
 */

#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

enum { MAX_SHOWN = 16, FIRST_PASSED_FD = 3 };

static int64_t begin;

static void tell(const char *what)
{
    printf("{\"%s\": %.3f}\n", what, (double)(now() - begin) / 1e6);
    fflush(stdout);
}

static void tell_cpu(pid_t pid)
{
    struct timespec used = {0};
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) == 0)
        clock_gettime(clock, &used);
    printf("{\"cpu\": %.3f}\n", (double)used.tv_sec * 1e3 + (double)used.tv_nsec / 1e6);
    fflush(stdout);
}

static void pause_shortly(void)
{
    struct timespec pause = {.tv_nsec = 200000};

    nanosleep(&pause, NULL);
}

static int listen_on(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 64)) {
        perror(path);
        exit(1);
    }
    return fd;
}

static int accepts(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int result;

    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    result = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return result;
}

static void become(char **command, const char *log, int listening)
{
    int out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    char pid[16];

    if (out < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
        _exit(126);
    if (listening >= 0) {
        struct pollfd arrival = {.fd = listening, .events = POLLIN};
        poll(&arrival, 1, -1);
        snprintf(pid, sizeof pid, "%d", (int)getpid());
        setenv("LISTEN_PID", pid, 1);
        setenv("LISTEN_FDS", "1", 1);
        /* dup2 to itself would leave the flag that closes it */
        if (listening == FIRST_PASSED_FD)
            fcntl(listening, F_SETFD, 0);
        else if (dup2(listening, FIRST_PASSED_FD) < 0)
            _exit(126);
    }
    execv(command[0], command);
    _exit(127);
}

static int visible(SCARDCONTEXT context, int wanted)
{
    static char names[MAX_SHOWN * MAX_READERNAME];
    SCARD_READERSTATE states[MAX_SHOWN] = {0};
    DWORD length = sizeof names;
    DWORD readers = 0;

    if (SCardListReaders(context, NULL, names, &length) != SCARD_S_SUCCESS)
        return 0;
    for (const char *name = names; *name && readers < MAX_SHOWN; name += strlen(name) + 1)
        states[readers++].szReader = name;
    if ((int)readers < wanted || SCardGetStatusChange(context, 0, states, readers) != SCARD_S_SUCCESS)
        return 0;
    for (DWORD i = 0; i < readers; i++)
        if (!(states[i].dwEventState & SCARD_STATE_PRESENT) || states[i].cbAtr == 0)
            return 0;
    return 1;
}

int main(int argc, char **argv)
{
    SCARDCONTEXT context;
    int activated, listening = -1;
    double order;
    pid_t daemon;

    if (argc < 6)
        return 2;
    activated = !strcmp(argv[1], "activate");
    if (activated)
        listening = listen_on(argv[2]);
    begin = now();
    daemon = fork();
    if (daemon == 0)
        become(argv + 5, argv[4], listening);
    printf("{\"pid\": %d}\n", (int)daemon);
    fflush(stdout);
    if (activated) {
        close(listening);
        begin = now();
    } else {
        while (!accepts(argv[2]))
            pause_shortly();
        tell("socket");
    }
    while (SCardEstablishContext(SCARD_SCOPE_SYSTEM, NULL, NULL, &context) != SCARD_S_SUCCESS)
        pause_shortly();
    tell("answer");
    tell_cpu(daemon);
    while (!visible(context, atoi(argv[3])))
        pause_shortly();
    tell("visible");
    while (next_order(&order))
        ;
    SCardReleaseContext(context);
    kill(daemon, SIGTERM);
    waitpid(daemon, NULL, 0);
    return 0;
}
