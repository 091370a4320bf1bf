// rtnetlink(7): RTM_NEWLINK, RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, each acknowledged.
#include "net.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define INTERFACE "eth0"
#define MAC_LENGTH 6

struct request {
  struct nlmsghdr header;
  char body[512];
};

static void request_start(struct request *request, int type, int flags, const void *body, size_t n) {
  memset(request, 0, sizeof *request);
  request->header = (struct nlmsghdr){.nlmsg_len = NLMSG_LENGTH(n), .nlmsg_type = (uint16_t)type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags)};
  memcpy(request->body, body, n);
}

static void attribute(struct request *request, int type, const void *data, size_t n) {
  struct rtattr *at = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));
  at->rta_type = (uint16_t)type;
  at->rta_len = (uint16_t)RTA_LENGTH(n);
  memcpy(RTA_DATA(at), data, n);
  request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + RTA_ALIGN(at->rta_len);
}

// Sends it and waits for the kernel's answer, which comes at once. `what` completes "Cannot …".
static int request_send(const struct request *request, const char *what) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) return fail("Cannot %s: no netlink socket", what);
  struct { struct nlmsghdr header; struct nlmsgerr error; char rest[1024]; } answer;
  ssize_t n = send(fd, request, request->header.nlmsg_len, 0);
  if (n >= 0) n = recv(fd, &answer, sizeof answer, 0);
  bool whole = n >= (ssize_t)(sizeof answer.header + sizeof answer.error.error) && answer.header.nlmsg_type == NLMSG_ERROR;
  if (n >= 0) errno = whole ? -answer.error.error : EPROTO;
  int result = n < 0 || errno ? fail("Cannot %s", what) : 0;
  close(fd);
  return result;
}

static int link_set(const char *name, bool up, const uint8_t *mac) {
  unsigned index = if_nametoindex(name);
  if (!index) return fail("Cannot find network interface %s", name);
  struct ifinfomsg link = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index, .ifi_change = up ? IFF_UP : 0, .ifi_flags = up ? IFF_UP : 0};
  struct request request;
  request_start(&request, RTM_NEWLINK, 0, &link, sizeof link);
  if (mac) attribute(&request, IFLA_ADDRESS, mac, MAC_LENGTH);
  return request_send(&request, mac ? "set the MAC of " INTERFACE : up ? "raise a network interface" : "change a network interface");
}

static int address_change(int type, unsigned index, struct in_addr ip) {
  struct ifaddrmsg address = {.ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = index, .ifa_scope = RT_SCOPE_UNIVERSE};
  struct request request;
  request_start(&request, type, type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_REPLACE : 0, &address, sizeof address);
  attribute(&request, IFA_LOCAL, &ip, sizeof ip);
  attribute(&request, IFA_ADDRESS, &ip, sizeof ip);
  return request_send(&request, type == RTM_NEWADDR ? "set the address of " INTERFACE : "remove the old address of " INTERFACE);
}

// `to` NULL: the default route through `gateway`; else a route to `to` on the link itself.
static int route_set(unsigned index, const struct in_addr *to, const struct in_addr *gateway, struct in_addr source) {
  struct rtmsg route = {
    .rtm_family = AF_INET, .rtm_dst_len = to ? 32 : 0, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_BOOT, .rtm_type = RTN_UNICAST,
    .rtm_scope = to ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE, .rtm_flags = to ? 0 : RTNH_F_ONLINK,
  };
  struct request request;
  request_start(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &route, sizeof route);
  attribute(&request, RTA_OIF, &index, sizeof index);
  attribute(&request, RTA_PREFSRC, &source, sizeof source);
  if (to) attribute(&request, RTA_DST, to, sizeof *to);
  else attribute(&request, RTA_GATEWAY, gateway, sizeof *gateway);
  return request_send(&request, to ? "set the route to the gateway" : "set the default route");
}

int net_loopback(void) { return link_set("lo", true, NULL); }

static int parse_mac(const char *text, uint8_t mac[MAC_LENGTH]) {
  char rest;
  int n = sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5], &rest);
  return n == MAC_LENGTH ? 0 : failx("Cannot use mac \"%s\": it is not aa:bb:cc:dd:ee:ff", text);
}

int net_identity(const char *ip, const char *gateway, const char *mac) {
  static struct in_addr current;  // what eth0 has from us; the workload may add its own
  struct in_addr address, router;
  uint8_t bytes[MAC_LENGTH];
  if (inet_pton(AF_INET, ip, &address) != 1) return failx("Cannot use ip \"%s\": it is no IPv4 address", ip);
  if (inet_pton(AF_INET, gateway, &router) != 1) return failx("Cannot use gateway \"%s\": it is no IPv4 address", gateway);
  if (mac && parse_mac(mac, bytes) < 0) return -1;
  unsigned index = if_nametoindex(INTERFACE);
  if (!index) return failx("Cannot set up the network: the machine has no interface " INTERFACE);
  // The host routes no IPv6 to guests: without this each guest sends router solicitations that nobody answers.
  if (write_file("/proc/sys/net/ipv6/conf/" INTERFACE "/disable_ipv6", "1") < 0) return -1;
  if ((mac && link_set(INTERFACE, false, bytes) < 0) || link_set(INTERFACE, true, NULL) < 0) return -1;
  if (address_change(RTM_NEWADDR, index, address) < 0) return -1;
  if (route_set(index, &router, NULL, address) < 0 || route_set(index, NULL, &router, address) < 0) return -1;
  bool other = current.s_addr && current.s_addr != address.s_addr;
  if (other && address_change(RTM_DELADDR, index, current) < 0) return -1;
  current = address;
  return 0;
}
