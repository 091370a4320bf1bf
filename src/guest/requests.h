#pragma once
#include "wire.h"

// One frame of the control port: SHUTDOWN, FREEZE, THAW, SYNC, WAKE. Answers by port_ack().
void request_handle(enum frame_type type, char *payload, size_t n);
// Kept open from the start: what stands in /dev later is the workload's affair.
int requests_start(void);
