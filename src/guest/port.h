// The control port: reports of init to the monitor, and the monitor's wishes.
#pragma once
#include "util.h"

// Waits for the virtio port named `dormouse` and opens it.
int port_find(void);
// Waits for /dev/hvc0, which appears the same way.
int port_console(void);
int port_start(int fd);
void port_state(const char *state);
void port_exited(int code, const char *message, bool reboot);
// The answer to a request.
void port_ack(const char *id, bool ok);
// Waits until the host has taken all that was sent, at most so long.
void port_flush(uint64_t limit_ms);
