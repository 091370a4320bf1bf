#pragma once
#include "conn.h"

// A program beside the workload, in its namespaces, for one connection: from EXEC to EXIT or ERROR.
// Returns conn->frame's results.
int exec_start(struct conn *conn, const char *payload, size_t n);
