#pragma once
#include "util.h"

// Copies all that is in directory `from` into directory `to`, and from's own owner, mode and attributes.
// Hard links within the tree stay links; what is in the way in `to` is replaced.
int copy_tree(int from, int to);
