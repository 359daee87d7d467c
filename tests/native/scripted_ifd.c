/* An IFD handler driver that is told what to do, for tests.
 *
 * DEVICENAME is a directory (in API 2.0, or without DEVICENAME: $SCRIPTED_IFD). There is a card in
 * slot N while it holds a file "cardN". Every call is appended to its file "calls", as a line with
 * the name, the Lun and an argument. While it holds "hold-open", channels wait to be created; a
 * number in "fail-open" is what their creation returns.
 *
 * Options at compile time (-D):
 *   API=2                        no IFDHCreateChannelByName, the older IFDHControl
 *   SLOTS, ACCESS, THREAD_SAFE, SLOT_THREAD_SAFE=n   capabilities; without them their tags are unknown
 *   POLLING, STOPPING            offer a polling function, and one that stops it
 *   NO_PROTOCOL, NO_POWER        leave a function out
 *   REFUSAL=n                    what selecting T=1 returns instead of 607
 *   UNDERSCORES                  all names begin with an underscore
 *   UNDEFINED                    call a function that nobody has
 *   ABORT_ON_LOAD
 *
 * APDUs with class F0 are orders: see IFDHTransmitToICC. All others are echoed, with 9000. */

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef API
#define API 3
#endif
#ifndef REFUSAL
#define REFUSAL PROTOCOL_UNSUPPORTED
#endif
#ifdef UNDERSCORES
#define NAME(name) _##name
#else
#define NAME(name) name
#endif

typedef unsigned long DWORD;
typedef long CODE;
typedef unsigned char UCHAR;
typedef struct { DWORD protocol, length; } HEADER;

enum {
    OK = 0, UNKNOWN_TAG = 600, UNSUPPORTED = 606, PROTOCOL_UNSUPPORTED = 607, POWER_FAILED = 608,
    COMMUNICATION = 612, PRESENT = 615, ABSENT = 616, TOO_LONG = 618
};
enum { READERS = 4, MAX_SLOTS_OF_ONE = 8 };

extern void log_msg(int priority, const char *format, ...);
extern void log_msg_rv(int priority, unsigned rv, const char *format, ...);
extern void log_xxd(int priority, const char *message, const UCHAR *bytes, int size);

static char directories[READERS][200];
static atomic_int busy;
static atomic_int overlaps;
/* Per slot, what IFDHICCPresence said last: a change is news for the polling function. */
static atomic_int last_seen[MAX_SLOTS_OF_ONE];

#ifdef ABORT_ON_LOAD
__attribute__((constructor)) static void loaded(void) { abort(); }
#endif

static const char *path(DWORD lun, const char *name)
{
    static _Thread_local char buffer[300];
    snprintf(buffer, sizeof buffer, "%s/%s", directories[lun >> 16], name);
    return buffer;
}

static int exists(DWORD lun, const char *name)
{
    return access(path(lun, name), F_OK) == 0;
}

static void hold_while(DWORD lun, const char *name, int present)
{
    while (exists(lun, name) == present)
        usleep(1000);
}

static void record(const char *call, DWORD lun, DWORD argument)
{
    char line[100];
    int length = snprintf(line, sizeof line, "%s %lx %lx\n", call, lun, argument);
    int fd = open(path(lun, "calls"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (fd >= 0 && write(fd, line, (size_t)length) != length)
        abort();
    close(fd);
}

/* Calls that the host must not make at the same time, unless the driver says that it may. */
static void enter(void)
{
    if (atomic_fetch_add(&busy, 1) > 0)
        atomic_fetch_add(&overlaps, 1);
}

static CODE leave(CODE code)
{
    atomic_fetch_sub(&busy, 1);
    return code;
}

static int card(DWORD lun)
{
    char name[20];
    snprintf(name, sizeof name, "card%lu", lun & 0xFFFF);
    return exists(lun, name);
}

static CODE create(DWORD lun, const char *directory)
{
    char text[20] = "0";

    if ((lun >> 16) >= READERS || (lun & 0xFFFF) >= MAX_SLOTS_OF_ONE || !directory)
        return COMMUNICATION;
    snprintf(directories[lun >> 16], sizeof directories[0], "%s", directory);
    enter();
    record("CreateChannel", lun, 0);
    hold_while(lun, "hold-open", 1);
    int fd = open(path(lun, "fail-open"), O_RDONLY);
    if (fd >= 0 && read(fd, text, sizeof text - 1) < 0)
        abort();
    close(fd);
    return leave(atoi(text));
}

#if API == 3
CODE NAME(IFDHCreateChannelByName)(DWORD lun, char *device) { return create(lun, device); }
#endif

CODE NAME(IFDHCreateChannel)(DWORD lun, DWORD channel)
{
    CODE code = create(lun, getenv("SCRIPTED_IFD"));
    record("Channel", lun, channel);
    return code;
}

CODE NAME(IFDHCloseChannel)(DWORD lun)
{
    record("CloseChannel", lun, 0);
    return OK;
}

__attribute__((unused)) static CODE byte_value(DWORD *length, UCHAR *value, UCHAR byte)
{
    if (*length < 1)
        return TOO_LONG;
    *length = 1;
    *value = byte;
    return OK;
}

#ifdef POLLING
static atomic_int stopped;

static CODE poll_card(DWORD lun, int milliseconds)
{
    record("Poll", lun, (DWORD)milliseconds);
    atomic_store(&stopped, 0);
    for (int i = 0; i < milliseconds / 2 && card(lun) == last_seen[lun & 0xFFFF] && !atomic_load(&stopped); i++)
        usleep(2000);
    return OK;
}
#endif

#ifdef STOPPING
static CODE stop_polling(DWORD lun)
{
    record("Stop", lun, 0);
    atomic_store(&stopped, 1);
    return OK;
}
#endif

#if defined POLLING || defined STOPPING
static CODE function_value(DWORD *length, UCHAR *value, void *function)
{
    if (*length < sizeof function)
        return TOO_LONG;
    *length = sizeof function;
    memcpy(value, &function, sizeof function);
    return OK;
}
#endif

CODE NAME(IFDHGetCapabilities)(DWORD lun, DWORD tag, DWORD *length, UCHAR *value)
{
    enter();
    record("GetCapabilities", lun, tag);
    switch (tag) {
    case 0x100: /* vendor name, of any length that fits */
        if (*length < 264)
            return leave(TOO_LONG);
        memset(value, 'v', *length);
        return leave(OK);
#ifdef SLOTS
    case 0xFAE: return leave(byte_value(length, value, SLOTS));
#endif
#ifdef ACCESS
    case 0xFAF: return leave(byte_value(length, value, ACCESS));
#endif
#ifdef THREAD_SAFE
    case 0xFAD: return leave(byte_value(length, value, THREAD_SAFE));
#endif
#ifdef SLOT_THREAD_SAFE
    case 0xFAC: return leave(byte_value(length, value, SLOT_THREAD_SAFE));
#endif
#ifdef POLLING
    case 0xFB3: return leave(function_value(length, value, (void *)poll_card));
#endif
#ifdef STOPPING
    case 0xFB2: return leave(function_value(length, value, (void *)stop_polling));
#endif
    default: return leave(UNKNOWN_TAG);
    }
}

CODE NAME(IFDHSetCapabilities)(DWORD lun, DWORD tag, DWORD length, UCHAR *value)
{
    record("SetCapabilities", lun, tag);
    return tag == 0x200 && length == 2 && value[0] == 1 && value[1] == 2 ? OK : UNKNOWN_TAG;
}

#ifndef NO_PROTOCOL
CODE NAME(IFDHSetProtocolParameters)(DWORD lun, DWORD protocol, UCHAR flags, UCHAR pts1, UCHAR pts2, UCHAR pts3)
{
    enter();
    record("SetProtocolParameters", lun, protocol);
    return leave(protocol == 2 || flags || pts1 || pts2 || pts3 ? REFUSAL : OK);
}
#endif

#ifndef NO_POWER
CODE NAME(IFDHPowerICC)(DWORD lun, DWORD action, UCHAR *atr, DWORD *length)
{
    static const UCHAR bytes[] = {0x3B, 0x02, 0x14, 0x50};

    enter();
    record("PowerICC", lun, action);
    if (exists(lun, "mute"))
        return leave(POWER_FAILED);
    if (exists(lun, "long-atr"))
        *length = 40;
    else if (action != 501) {
        memcpy(atr, bytes, sizeof bytes);
        *length = sizeof bytes;
    }
    return leave(OK);
}
#endif

static CODE order(DWORD lun, const UCHAR *apdu, UCHAR *answer, DWORD *length)
{
    DWORD number = (DWORD)(apdu[2] << 8 | apdu[3]);

    switch (apdu[1]) {
    case 0x01: abort();
    case 0x02: *(volatile int *)8 = 0; return OK;
    case 0x03: exit((int)number);
    case 0x04: /* busy until there is a file "go" */
        record("Holding", lun, 0);
        hold_while(lun, "go", 0);
        break;
    case 0x05: return (CODE)number;
    case 0x06: /* an answer of so many bytes, and a status word */
        memset(answer, 0x5A, number);
        memcpy(answer + number, "\x90\x00", 2);
        *length = number + 2;
        return OK;
    case 0x07: /* log */
        log_msg(0, "debug %d", 1);
        log_msg(1, "info %s", "two");
        log_msg_rv(2, 0x8010002F, "error");
        log_xxd(3, "bytes: ", apdu, 4);
        log_msg(1, "two\nlines \033[31mred");
        break;
    case 0x08: *length = 100000; return OK;
    case 0x09: /* many long log lines */
        for (DWORD i = 0; i < number; i++)
            log_msg(2, "line %lu %01000d", i, 0);
        break;
#ifdef UNDEFINED
        extern void nobody_has_this_function(void);
    case 0x0A: nobody_has_this_function();
#endif
    }
    memcpy(answer, "\x90\x00", 2);
    *length = 2;
    return OK;
}

CODE NAME(IFDHTransmitToICC)(DWORD lun, HEADER send, UCHAR *apdu, DWORD size, UCHAR *answer, DWORD *length,
                             HEADER *receive)
{
    enter();
    record("TransmitToICC", lun, send.protocol);
    receive->protocol = send.protocol;
    if (!card(lun))
        return leave(ABSENT);
    if (send.length != sizeof send)
        return leave(COMMUNICATION);
    if (size >= 4 && apdu[0] == 0xF0)
        return leave(order(lun, apdu, answer, length));
    if (size + 2 > *length)
        return leave(TOO_LONG);
    memcpy(answer, apdu, size);
    memcpy(answer + size, "\x90\x00", 2);
    *length = size + 2;
    return leave(OK);
}

CODE NAME(IFDHICCPresence)(DWORD lun)
{
    enter();
    int seen = card(lun);
    atomic_store(&last_seen[lun & 0xFFFF], seen);
    return leave(exists(lun, "trouble") ? COMMUNICATION : seen ? PRESENT : ABSENT);
}

/* Code 1: how often calls overlapped, as text. Code 2: an echo. */
static CODE control(DWORD lun, DWORD code, const UCHAR *data, DWORD size, UCHAR *answer, DWORD room,
                    DWORD *length)
{
    record("Control", lun, code);
    if (code == 1) {
        *length = (DWORD)snprintf((char *)answer, room, "%d", atomic_load(&overlaps));
        return OK;
    }
    if (code != 2)
        return UNSUPPORTED;
    if (size > room)
        return TOO_LONG;
    memcpy(answer, data, size);
    *length = size;
    return OK;
}

#if API == 3
CODE NAME(IFDHControl)(DWORD lun, DWORD code, UCHAR *data, DWORD size, UCHAR *answer, DWORD room, DWORD *length)
{
    return control(lun, code, data, size, answer, room, length);
}
#else
CODE NAME(IFDHControl)(DWORD lun, UCHAR *data, DWORD size, UCHAR *answer, DWORD *length)
{
    return control(lun, 2, data, size, answer, *length, length);
}
#endif
