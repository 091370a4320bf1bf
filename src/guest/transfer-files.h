// What a transfer does, inside the workload's root. Each returns 0 once its last frame is sent, or -1 and sets `failure`.
#pragma once
#include "wire.h"
#include <sys/stat.h>

int files_out(struct pair_reader *request);
int files_in(struct pair_reader *request);
int files_stat(struct pair_reader *request);

// "a FIFO", "a device": for what is neither file, folder nor symlink.
const char *special_name(mode_t mode);
