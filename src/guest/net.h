// The guest's network by rtnetlink: lo, and eth0 with a /32 address and an on-link gateway.
#pragma once
#include "util.h"

int net_loopback(void);
// Gives eth0 the address (and the MAC where it is not NULL), replacing the address that an earlier call gave. Strings are IPv4 dotted quads.
int net_identity(const char *ip, const char *gateway, const char *mac);
