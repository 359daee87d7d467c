#include <stddef.h>

/* Hidden, because this module is loaded with RTLD_GLOBAL and must not take a driver's own names. */
#pragma GCC visibility push(hidden)

/* Lines that begin with '#' are for the C compiler only; build_native.py gives the rest to cffi. */

typedef struct ifd_library ifd_library;

/* Results of ifd_load(). */
#define IFD_LOADED 0
#define IFD_NOT_LOADED 1
#define IFD_INCOMPLETE 2

/* Load a driver. On IFD_LOADED, message holds a warning or nothing; on IFD_NOT_LOADED, what the
   dynamic linker said; on IFD_INCOMPLETE, the required functions that the library does not have. */
int ifd_load(const char *path, ifd_library **library, char *message, size_t size);
void ifd_unload(ifd_library *library);
/* The API version: 3 when the library has IFDHCreateChannelByName, else 2. */
int ifd_version(const ifd_library *library);

/* The functions of a driver. All return its response code; those that an API version lacks or the
   library left out return IFD_NOT_SUPPORTED (614). Lengths go in as room and come back as size. */
long ifd_create_channel_by_name(const ifd_library *library, unsigned long lun, const char *device);
long ifd_create_channel(const ifd_library *library, unsigned long lun, unsigned long channel);
long ifd_close_channel(const ifd_library *library, unsigned long lun);
long ifd_get_capabilities(const ifd_library *library, unsigned long lun, unsigned long tag,
                          unsigned long *length, unsigned char *value);
long ifd_set_capabilities(const ifd_library *library, unsigned long lun, unsigned long tag,
                          unsigned long length, const unsigned char *value);
long ifd_set_protocol_parameters(const ifd_library *library, unsigned long lun, unsigned long protocol);
long ifd_power_icc(const ifd_library *library, unsigned long lun, unsigned long action,
                   unsigned long *length, unsigned char *atr);
long ifd_transmit_to_icc(const ifd_library *library, unsigned long lun, unsigned long protocol,
                         const unsigned char *command, unsigned long command_length,
                         unsigned long *length, unsigned char *answer);
long ifd_icc_presence(const ifd_library *library, unsigned long lun);
long ifd_control(const ifd_library *library, unsigned long lun, unsigned long code,
                 const unsigned char *command, unsigned long command_length,
                 unsigned long *length, unsigned char *answer);

/* A function that a driver offers as a capability, or NULL. */
void *ifd_offered_function(const ifd_library *library, unsigned long lun, unsigned long tag);
long ifd_poll(void *function, unsigned long lun, int milliseconds);
long ifd_stop_polling(void *function, unsigned long lun);

/* Let receiving from a socket end after a time. In C, because the layout of struct timeval differs.
   Returns 0 or -1. */
int ifd_receive_timeout(int fd, int milliseconds);

/* Where log lines go, each as one datagram (a byte with its priority, then text), and the lowest
   priority that is of interest. */
void ifd_log_to(int fd, int priority);
void ifd_log(int priority, const char *text);

#pragma GCC visibility pop
