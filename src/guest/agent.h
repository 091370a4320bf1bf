// The vsock side: one connection an exec, attach or transfer of files.
#pragma once
#include "util.h"

#define AGENT_PORT 1024
// A listening vsock; connections wait in it until agent_serve().
int agent_listen(void);
// Serves connections of any listening stream socket.
int agent_serve(int listener);
// At the end: lets what was sent leave. Waits for peers as long as one of them takes something within `stall_ms`,
// and at most `limit_ms`.
void agent_flush(uint64_t stall_ms, uint64_t limit_ms);
