/* Calls into IFD handler libraries (API 2.0 and 3.0), and the functions they expect of their host.
 *
 * The log functions are called from any native thread, also while Python ends, so they touch
 * nothing but a stack buffer and a socket. */

#define _GNU_SOURCE
#include "native.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define VISIBLE __attribute__((visibility("default")))
#define LIKE_PRINTF(text, first) __attribute__((format(printf, text, first)))

typedef unsigned long dword;
typedef struct { dword protocol, length; } io_header;

enum { IFD_SUCCESS = 0, IFD_NOT_SUPPORTED = 614 };
enum { LOG_DEBUG = 0, LOG_ERROR = 2, LINE_SIZE = 4096 };

struct ifd_library {
    void *handle;
    long (*create_channel_by_name)(dword, char *);
    long (*create_channel)(dword, dword);
    long (*close_channel)(dword);
    long (*get_capabilities)(dword, dword, dword *, unsigned char *);
    long (*set_capabilities)(dword, dword, dword, unsigned char *);
    long (*set_protocol_parameters)(dword, dword, unsigned char, unsigned char, unsigned char,
                                    unsigned char);
    long (*power_icc)(dword, dword, unsigned char *, dword *);
    long (*transmit_to_icc)(dword, io_header, unsigned char *, dword, unsigned char *, dword *,
                            io_header *);
    long (*icc_presence)(dword);
    void *control;
};

typedef long (*control_2_0)(dword, unsigned char *, dword, unsigned char *, dword *);
typedef long (*control_3_0)(dword, dword, unsigned char *, dword, unsigned char *, dword, dword *);

/* ---- the log ---- */

static atomic_int log_socket = -1;
static atomic_int log_priority = LOG_DEBUG;
static atomic_uint lost_lines;

static int send_line(const char *line, size_t length)
{
    return send(atomic_load(&log_socket), line, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

/* line[0] is kept free for the priority; length counts it. */
static void put_line(int priority, char *line, size_t length)
{
    unsigned lost = atomic_exchange(&lost_lines, 0);

    if (lost) {
        char note[64];
        int size = snprintf(note, sizeof note, "%c%u log lines were lost", LOG_ERROR, lost);
        if (!send_line(note, (size_t)size)) {
            atomic_fetch_add(&lost_lines, lost + 1);
            return;
        }
    }
    line[0] = (char)priority;
    if (!send_line(line, length))
        atomic_fetch_add(&lost_lines, 1);
}

static int wanted(int priority)
{
    return atomic_load(&log_socket) >= 0 && priority >= atomic_load(&log_priority);
}

/* The length of the text so far, whatever snprintf() would have liked to write. */
static size_t written(int result, size_t room)
{
    if (result < 0)
        return 0;
    return (size_t)result < room ? (size_t)result : room - 1;
}

LIKE_PRINTF(2, 3) VISIBLE void log_msg(const int priority, const char *format, ...)
{
    char line[LINE_SIZE];
    va_list arguments;

    if (!wanted(priority))
        return;
    va_start(arguments, format);
    size_t length = 1 + written(vsnprintf(line + 1, sizeof line - 1, format, arguments), sizeof line - 1);
    va_end(arguments);
    put_line(priority, line, length);
}

LIKE_PRINTF(3, 4) VISIBLE void log_msg_rv(const int priority, unsigned int rv, const char *format, ...)
{
    char line[LINE_SIZE];
    va_list arguments;

    if (!wanted(priority))
        return;
    va_start(arguments, format);
    size_t length = 1 + written(vsnprintf(line + 1, sizeof line - 1, format, arguments), sizeof line - 1);
    va_end(arguments);
    length += written(snprintf(line + length, sizeof line - length, ", rv=0x%08X", rv), sizeof line - length);
    put_line(priority, line, length);
}

VISIBLE void log_xxd(const int priority, const char *message, const unsigned char *bytes, const int size)
{
    char line[LINE_SIZE];

    if (!wanted(priority))
        return;
    size_t length = 1 + written(snprintf(line + 1, sizeof line - 1, "%s", message), sizeof line - 1);
    for (int i = 0; i < size; i++) {
        if (length + sizeof "FF ..." > sizeof line) {
            memcpy(line + length, "...", 3);
            length += 3;
            break;
        }
        length += (size_t)snprintf(line + length, sizeof line - length, "%02X ", bytes[i]);
    }
    put_line(priority, line, length);
}

VISIBLE void DebugLogSetLevel(const int priority)
{
    atomic_store(&log_priority, priority);
}

void ifd_log_to(int fd, int priority)
{
    atomic_store(&log_priority, priority);
    atomic_store(&log_socket, fd);
}

void ifd_log(int priority, const char *text)
{
    log_msg(priority, "%s", text);
}

/* ---- loading ---- */

/* Some compilers of old put an underscore before every name; such drivers still exist. */
static void *find(void *handle, const char *name)
{
    char decorated[64];

    snprintf(decorated, sizeof decorated, "_%s", name);
    void *symbol = dlsym(handle, decorated);
    return symbol ? symbol : dlsym(handle, name);
}

static void *require(void *handle, const char *name, char *missing, size_t size)
{
    void *symbol = find(handle, name);

    if (!symbol) {
        size_t length = strlen(missing);
        snprintf(missing + length, size - length, "%s%s", length ? ", " : "", name);
    }
    return symbol;
}

/* A driver may name functions that no host has and never call them: those load lazily only. */
static void *open_library(const char *path, char *message, size_t size)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    message[0] = 0;
    if (!handle) {
        snprintf(message, size, "%s", dlerror());
        handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    }
    return handle;
}

int ifd_load(const char *path, ifd_library **result, char *message, size_t size)
{
    ifd_library *library = calloc(1, sizeof *library);
    char missing[512] = "";

    *result = NULL;
    if (!library) {
        snprintf(message, size, "out of memory");
        return IFD_NOT_LOADED;
    }
    void *handle = library->handle = open_library(path, message, size);
    if (!handle) {
        free(library);
        return IFD_NOT_LOADED;
    }
#define REQUIRE(name) require(handle, name, missing, sizeof missing)
    library->create_channel_by_name = find(handle, "IFDHCreateChannelByName");
    library->create_channel = REQUIRE("IFDHCreateChannel");
    library->close_channel = REQUIRE("IFDHCloseChannel");
    library->get_capabilities = REQUIRE("IFDHGetCapabilities");
    library->set_capabilities = REQUIRE("IFDHSetCapabilities");
    library->set_protocol_parameters = find(handle, "IFDHSetProtocolParameters");
    library->power_icc = REQUIRE("IFDHPowerICC");
    library->transmit_to_icc = REQUIRE("IFDHTransmitToICC");
    library->icc_presence = REQUIRE("IFDHICCPresence");
    library->control = REQUIRE("IFDHControl");
#undef REQUIRE
    if (missing[0]) {
        snprintf(message, size, "%s", missing);
        ifd_unload(library);
        return IFD_INCOMPLETE;
    }
    *result = library;
    return IFD_LOADED;
}

void ifd_unload(ifd_library *library)
{
    dlclose(library->handle);
    free(library);
}

int ifd_version(const ifd_library *library)
{
    return library->create_channel_by_name ? 3 : 2;
}

/* ---- calls; the casts are there because the API knows no const ---- */

long ifd_create_channel_by_name(const ifd_library *library, dword lun, const char *device)
{
    if (!library->create_channel_by_name)
        return IFD_NOT_SUPPORTED;
    return library->create_channel_by_name(lun, (char *)device);
}

long ifd_create_channel(const ifd_library *library, dword lun, dword channel)
{
    return library->create_channel(lun, channel);
}

long ifd_close_channel(const ifd_library *library, dword lun)
{
    return library->close_channel(lun);
}

long ifd_get_capabilities(const ifd_library *library, dword lun, dword tag, dword *length,
                          unsigned char *value)
{
    return library->get_capabilities(lun, tag, length, value);
}

long ifd_set_capabilities(const ifd_library *library, dword lun, dword tag, dword length,
                          const unsigned char *value)
{
    return library->set_capabilities(lun, tag, length, (unsigned char *)value);
}

long ifd_set_protocol_parameters(const ifd_library *library, dword lun, dword protocol)
{
    if (!library->set_protocol_parameters)
        return IFD_NOT_SUPPORTED;
    return library->set_protocol_parameters(lun, protocol, 0, 0, 0, 0);
}

long ifd_power_icc(const ifd_library *library, dword lun, dword action, dword *length, unsigned char *atr)
{
    return library->power_icc(lun, action, atr, length);
}

long ifd_transmit_to_icc(const ifd_library *library, dword lun, dword protocol,
                         const unsigned char *command, dword command_length, dword *length,
                         unsigned char *answer)
{
    io_header send_header = {protocol, sizeof send_header};
    io_header receive_header = {0, 0};

    return library->transmit_to_icc(lun, send_header, (unsigned char *)command, command_length, answer,
                                    length, &receive_header);
}

long ifd_icc_presence(const ifd_library *library, dword lun)
{
    return library->icc_presence(lun);
}

long ifd_control(const ifd_library *library, dword lun, dword code, const unsigned char *command,
                 dword command_length, dword *length, unsigned char *answer)
{
    if (ifd_version(library) == 2)
        return ((control_2_0)library->control)(lun, (unsigned char *)command, command_length, answer,
                                               length);
    dword room = *length;
    *length = 0;
    return ((control_3_0)library->control)(lun, code, (unsigned char *)command, command_length, answer,
                                           room, length);
}

void *ifd_offered_function(const ifd_library *library, dword lun, dword tag)
{
    void *function = NULL;
    dword length = sizeof function;

    if (library->get_capabilities(lun, tag, &length, (unsigned char *)&function) != IFD_SUCCESS
        || length != sizeof function)
        return NULL;
    return function;
}

long ifd_poll(void *function, dword lun, int milliseconds)
{
    return ((long (*)(dword, int))function)(lun, milliseconds);
}

long ifd_stop_polling(void *function, dword lun)
{
    return ((long (*)(dword))function)(lun);
}

int ifd_receive_timeout(int fd, int milliseconds)
{
    struct timeval timeout = {milliseconds / 1000, milliseconds % 1000 * 1000};

    return setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
}
