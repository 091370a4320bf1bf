import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { doctorForwarding } from "../../../src/host/network/doctor.ts";
import { openNetwork } from "../../../src/host/network/network.ts";
import { database, inNamespace, run } from "./world.ts";

setDefaultTimeout(60_000); // only a guard: processes start slowly on a busy or emulated machine
inNamespace();
afterEach(() => void run("nft", "flush", "ruleset"));

const findings = () => doctorForwarding()._unsafeUnwrap();
const fine = [{ ok: true, what: "no foreign rule drops forwarded packets" }];

test("finds nothing wrong with an open host, nor with our own table", async () => {
  expect(findings()).toEqual(fine);
  const network = openNetwork({ db: database() })._unsafeUnwrap();
  (await network.start())._unsafeUnwrap();
  expect(findings()).toEqual(fine);
  (await network.teardown())._unsafeUnwrap();
  network.close();
});

test("names a chain that drops by policy, as Docker's does, until our links are excepted", () => {
  run("nft", "add table ip filter; add chain ip filter DOCKER-USER; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; add rule ip filter FORWARD jump DOCKER-USER");
  const [found] = findings();
  expect(found?.ok).toBe(false);
  expect(found?.what).toContain("ip filter FORWARD drops");
  expect(found?.fix).toContain("iptables -I FORWARD");
  run("nft", 'add rule ip filter DOCKER-USER iifname "dormouse-*" accept');
  expect(findings()).toEqual(fine);
});

test("names a chain that ends by rejecting the rest, as firewalld's does", () => {
  run("nft", "add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }");
  run("nft", "add rule inet firewalld filter_FORWARD tcp dport 22 drop");
  expect(findings()).toEqual(fine);
  run("nft", "add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited");
  const [found] = findings();
  expect(found?.what).toContain("inet firewalld filter_FORWARD ends with a rule that drops the rest");
  expect(found?.fix).toContain("firewall-cmd");
});

test("names arp_ignore and interfaces that do not forward", () => {
  run("sysctl", "-w", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.ip_forward=1");
  run("ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1");
  run("sysctl", "-w", "net.ipv4.conf.out0.forwarding=0");
  expect(findings().map((f) => f.what)).toEqual([
    expect.stringContaining("arp_ignore"), expect.stringContaining("forwarding is off for out0"),
  ]);
  run("ip", "link", "del", "out0");
  run("sysctl", "-w", "net.ipv4.conf.all.arp_ignore=0", "net.ipv4.ip_forward=0");
});
