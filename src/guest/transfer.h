// Files between host and workload: COPY_OUT, COPY_IN and STAT, each a connection and a child of init of its own.
#pragma once
#include "conn.h"

// Returns conn->frame's results.
int transfer_start(struct conn *conn, enum frame_type type, const char *payload, size_t n);
// The workload is gone: hangs up on all, so that half-made files are cleaned up.
void transfers_end(void);
