// The whole guest under a kernel of ours: every machine boots in one to three seconds of software emulation.
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { $ } from "bun";
import type { Pair } from "../../src/pairs.ts";
import { Frame } from "../../src/vmm/protocol.ts";
import { Machine, makeDisk, makeRootfs, removeFolder, tempFolder } from "./machine.ts";

const folder = tempFolder();
const LIMIT = 120_000;
let image = "";
const machines: Machine[] = [];

beforeAll(async () => {
  image = await makeRootfs(folder, {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
    "etc/group": "ann:x:1000:\nstaff:x:50:ann\n",
    "etc/resolv.conf": "nameserver 9.9.9.9\n",
    "data/seed/file": "from the image\n",
    "var/keep/x": "x",
    "bin/later": "#!/bin/sh\necho later\n",
  }, { "data/link": "seed/file", "var/abs": "/var/keep" });
}, 600_000);
afterEach(() => machines.splice(0).forEach((machine) => machine.kill()));
afterAll(() => removeFolder(folder));

interface Extra { readonly disk?: string; /** `vdc`, with `disk` only. */ readonly second?: string; /** `vdd`. */ readonly third?: string; readonly network?: boolean; readonly memoryMb?: number }
async function boot(args: readonly string[], config: readonly Pair[] = [], extra: Extra = {}): Promise<Machine> {
  const own = mkdtempSync(join(folder, "m-"));
  const machine = await Machine.boot({
    folder: own, disks: [image, ...(extra.disk ? [extra.disk] : []), ...[extra.second, extra.third].filter((path) => path !== undefined)], network: extra.network, memoryMb: extra.memoryMb,
    config: [...args.map((arg): Pair => ["arg", arg]), ["hostname", "box"], ...(extra.disk ? [["disk.upper", "vdb"] as const] : []), ...config],
  });
  machines.push(machine);
  return machine;
}
const sh = (script: string, config?: readonly Pair[], extra?: Extra) => boot(["sh", "-c", script], config, extra);
const lines = (machine: Machine) => machine.output.replaceAll("\r", "").trimEnd().split("\n");

test("a machine says initializing, running, exited, and resets", async () => {
  const machine = await sh("echo I am $$; exit 3");
  expect(await machine.ended()).toEqual(new Map([["state", "exited"], ["code", "3"], ["message", "exited with code 3"], ["reboot", "0"]]));
  expect(machine.states.map((s) => s.get("state"))).toEqual(["initializing", "running", "exited"]);
  expect(machine.output).toBe("I am 1\n");
  expect(await machine.serial()).toContain("init: started");
}, LIMIT);

test("name, network, resolvers and parameters are set", async () => {
  const machine = await sh(
    "hostname; cat /etc/hostname /etc/resolv.conf; grep box /etc/hosts; ip -4 addr show eth0 | grep inet; ip route; cat /sys/class/net/lo/operstate; " +
      "ip link show eth0 | grep -c UP; cat /sys/class/net/eth0/address /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv6/conf/eth0/disable_ipv6",
    [["ip", "10.9.0.7"], ["gateway", "10.9.0.1"], ["dns", "10.9.0.1"], ["dns", "1.1.1.1"], ["search", "a.test"], ["search", "b.test"], ["mac", "02:00:00:00:00:09"], ["host", "10.9.0.5 db"]],
    { network: true },
  );
  await machine.ended();
  expect(lines(machine).map((line) => line.replace(/\s+/g, " ").trim())).toEqual([
    "box", "box", "nameserver 10.9.0.1", "nameserver 1.1.1.1", "search a.test b.test", "10.9.0.7 box",
    "inet 10.9.0.7/32 scope global eth0",
    "default via 10.9.0.1 dev eth0 src 10.9.0.7 onlink", "10.9.0.1 dev eth0 scope link src 10.9.0.7", "unknown", "1", "02:00:00:00:00:09", "0", "1",
  ]);
}, LIMIT);

test("the workload has file systems and devices as in a container, and none of the host's channels", async () => {
  const machine = await sh(
    "for f in /proc /sys /dev /dev/pts /dev/shm /dev/mqueue /sys/fs/cgroup; do grep -q \" $f \" /proc/mounts || echo missing $f; done; " +
      "stat -c %a /tmp /dev/shm /dev/fuse; ls -d /dev/net/tun /dev/kmsg /dev/loop-control; cat /proc/self/cgroup; mkdir /sys/fs/cgroup/mine && cat /sys/fs/cgroup/cgroup.controllers; " +
      "echo x > /dev/hvc0; mknod /tmp/h c 229 0; echo x > /dev/vport0p1; dd if=/dev/vport0p1 count=1; grep -c /run/disk /proc/mounts; cat /proc/mounts | wc -l; ls /dormouse; echo end",
  );
  await machine.ended();
  const text = machine.output.replaceAll("\r", "");
  expect(text).not.toContain("missing");
  expect(text).toStartWith("1777\n1777\n666\n/dev/kmsg\n/dev/loop-control\n/dev/net/tun\n0::/\n");
  expect(text).toMatch(/cpuset cpu io memory( hugetlb)? pids/);
  expect(text.match(/Operation not permitted/g)?.length).toBe(4);
  expect(text).toContain("ls: /dormouse: No such file");
  expect(text).toMatch(/^end$/m); // stdout and stderr come by pipes of their own, in any order
}, LIMIT);

test("what is written survives a restart: on the overlay and in volumes, which start with the image's files", async () => {
  const disk = await makeDisk(mkdtempSync(join(folder, "d-")));
  const volumes: Pair[] = [["volume", "/data"], ["volume", "/made/up"]];
  const first = await sh("cat /data/seed/file /data/link; grep -c '/dev/vdb.*/data\\|/dev/vdb.*/made/up\\|/dev/vdb.*/var/lib/docker\\|/dev/vdb.*/var/lib/containerd' /proc/mounts; " +
    "echo changed > /data/seed/file; rm /data/link; echo kept > /root-file; mv /var/keep /var/moved; rm -r /var/abs; sync; exit 0", volumes, { disk });
  expect((await first.ended()).get("code")).toBe("0");
  expect(lines(first)).toEqual(["from the image", "from the image", "4"]);
  await $`e2fsck -fn ${disk}`.quiet();
  const second = await sh("cat /data/seed/file /root-file /var/moved/x; ls /data /var", volumes, { disk });
  await second.ended();
  expect(lines(second)).toEqual(["changed", "kept", "x" + "/data:", "seed", "", "/var:", "lib", "moved"]);
}, LIMIT);

test("a copied volume keeps owners, modes, links and times", async () => {
  const disk = await makeDisk(mkdtempSync(join(folder, "d-")));
  const maker = await sh("mkdir -p /v/d; echo x > /v/a; ln /v/a /v/b; ln -s /v/a /v/s; chown 1000:50 /v/a /v/d; chmod 4750 /v/a; chmod 1777 /v/d; mkfifo /v/f; touch -d '2020-01-02 03:04:05' /v/a /v; chown 7:8 /v; chmod 711 /v; find /v | sort | xargs stat -c '%n %a %u:%g %h %Y %F'; sleep 0", [], { disk });
  await maker.ended();
  const copied = await sh("find /v | sort | xargs stat -c '%n %a %u:%g %h %Y %F'", [["volume", "/v"]], { disk });
  await copied.ended();
  const stable = (machine: Machine) => lines(machine).map((line) => (/^\/v\/(d|s|f) /.test(line) ? line.replace(/ \d{10} /, " ") : line));
  expect(stable(copied)).toEqual(stable(maker));
  expect(lines(maker).length).toBe(6);
}, LIMIT);

test("other disks are mounted over what the image has there, with their options, and clean once the machine has ended", async () => {
  const [disk, second] = [await makeDisk(mkdtempSync(join(folder, "d-"))), await makeDisk(mkdtempSync(join(folder, "d-")))];
  const writer = await sh("grep -c /run/attached /proc/mounts; ls -A /data; echo kept > '/data/a file'; exec sleep 0", [["mount", "vdc ext4 noatime /data"], ["volume", "/data"]], { disk, second });
  await writer.ended();
  expect(lines(writer)).toEqual(["0"]);
  await $`e2fsck -fn ${second}`.quiet();
  expect(await $`dumpe2fs -h ${second}`.quiet().text()).not.toContain("needs_recovery");
  const reader = await sh("grep extra /proc/mounts; touch '/mnt/an extra/x'; cat '/mnt/an extra/a file'", [["mount", "vdc ext4 ro,noatime /mnt/an extra"]], { disk, second });
  const failed = await boot(["true"], [["mount", "vdc ext4 /mnt"]]);
  await reader.ended();
  expect(reader.output).toMatch(/^\/dev\/vdc \/mnt\/an\\040extra ext4 ro,/m);
  expect(reader.output).toContain("Read-only file system");
  expect(reader.output).toContain("kept\n");
  expect((await failed.ended()).get("message")).toContain("not DEVICE FSTYPE OPTIONS PATH");
  const none = await boot(["true"], [["mount", "vdq ext4 rw /data"]]);
  expect((await none.ended()).get("message")).toStartWith("Cannot use the volume at /data: Cannot mount /dev/vdq (ext4)");
}, LIMIT);

test("what is written over a read-only disk goes to another one, and stays there", async () => {
  const [disk, second, third] = [await makeDisk(mkdtempSync(join(folder, "d-"))), await makeDisk(mkdtempSync(join(folder, "d-"))), await makeDisk(mkdtempSync(join(folder, "d-")))];
  // An empty one takes the mode of what the image has there; not one that has something in it.
  const empty = await sh("stat -c '%a' /tmp; ls -A /tmp; chmod 700 /tmp; echo x > /tmp/x", [["mount", "vdc ext4 rw /tmp"]], { disk, second });
  await empty.ended();
  const used = await sh("stat -c '%a' /tmp; rm /tmp/x", [["mount", "vdc ext4 rw /tmp"]], { disk, second });
  await used.ended();
  expect([lines(empty), lines(used)]).toEqual([["1777"], ["700"]]);
  await (await sh("mkdir /v/d; echo below > /v/d/old; echo gone > /v/b; chown 7:8 /v; chmod 1771 /v", [["mount", "vdc ext4 rw /v"]], { disk, second })).ended();
  const before = await $`sha256sum ${second}`.quiet().text(), layered: Pair[] = [["mount", "vdc ext4 ro,overlay=vdd /v"]];
  await (await sh("echo above >> /v/d/old; mv /v/d /v/moved; rm /v/b; chmod 755 /v", layered, { disk, second, third })).ended();
  const again = await sh("cat /v/moved/old; ls -A /v; stat -c '%a %u:%g' /v", layered, { disk, second, third });
  await again.ended();
  expect(lines(again)).toEqual(["below", "above", "moved", "755 7:8"]);
  expect(await $`sha256sum ${second}`.quiet().text()).toBe(before);
  await $`e2fsck -fn ${third}`.quiet();
}, LIMIT);

test("broken disks end the machine with the reason", async () => {
  const machine = await boot(["true"], [["disk.root", "vdq"]]);
  const state = await machine.ended();
  expect(state.get("code")).toBe("125");
  expect(state.get("message")).toBe("Cannot mount /dev/vdq (erofs) on /run/image: No such file or directory");
}, LIMIT);

test("configurations that can't be right are refused by name", async () => {
  for (const [config, message] of [
    [[["colour", "red"]], 'init knows no key "colour"'],
    [[["ip", "10.0.0.1"]], "ip and gateway need each other"],
    [[["stop_signal", "SIGNONE"]], "no such signal"],
    [[["volume", "relative"]], "not an absolute path"],
  ] as [Pair[], string][]) {
    const machine = await boot(["true"], config);
    const state = await machine.ended();
    expect(state.get("code")).toBe("125");
    expect(state.get("message")).toContain(message);
  }
}, LIMIT);

test("reboot and poweroff inside are told apart", async () => {
  const restart = await sh("reboot -f");
  expect(await restart.ended()).toEqual(new Map([["state", "exited"], ["code", "0"], ["message", "restarted itself"], ["reboot", "1"]]));
  const off = await sh("poweroff -f");
  expect(await off.ended()).toEqual(new Map([["state", "exited"], ["code", "0"], ["message", "powered itself off"], ["reboot", "0"]]));
}, LIMIT);

test("a workload that takes all memory is killed, and the message says so", async () => {
  const machine = await sh("exec tail /dev/zero", [], { memoryMb: 192 });
  const state = await machine.ended();
  expect(state.get("code")).toBe("137");
  expect(state.get("message")).toBe("killed by signal 9 (SIGKILL) - OOM");
}, LIMIT);

test("freeze stops the workload, thaw lets it go on, sync and wake are acknowledged", async () => {
  const disk = await makeDisk(mkdtempSync(join(folder, "d-")));
  const machine = await sh(
    "i=0; while [ ! -e /tmp/never ]; do i=$((i+1)); echo tick $i; sleep 0.05; [ $(date +%s) -gt 4000000000 ] && break; done; hostname; cat /etc/hostname; grep newname /etc/hosts; ip -4 -o addr show eth0 | grep -o '10[.0-9]*/32'; ip route | head -1; cat /sys/class/net/eth0/address",
    [["ip", "10.9.0.7"], ["gateway", "10.9.0.1"]], { network: true, disk },
  );
  await machine.text("tick 3");
  machine.request(Frame.FREEZE, ["id", "f1"]);
  expect((await machine.ack("f1")).get("ok")).toBe("1");
  machine.request(Frame.SYNC, ["id", "s1"]);
  expect((await machine.ack("s1")).get("ok")).toBe("1");
  const seen = machine.output;
  machine.request(Frame.WAKE, ["id", "w0"], ["seed", randomBytes(32).toString("hex")], ["hostname", "other"]);
  expect((await machine.ack("w0")).get("ok")).toBe("1");
  expect(machine.output).toBe(seen);
  machine.request(Frame.WAKE, ["id", "w1"], ["realtime_ns", "4100000000000000000"], ["seed", randomBytes(64).toString("hex")],
    ["hostname", "newname"], ["ip", "10.9.0.8"], ["gateway", "10.9.0.2"], ["mac", "02:00:00:00:00:08"]);
  // Each answer tells the time. A clock that is shifted is set by nothing else.
  const set = await machine.ack("w1");
  expect([...set.keys()]).toEqual(["id", "ok", "realtime_ns"]);
  for (const [id, offset_ns] of [["w2", "100000000000000001"], ["w3", "-1"]] as const) machine.request(Frame.WAKE, ["id", id], ["offset_ns", offset_ns]);
  const shifted = BigInt((await machine.ack("w3")).get("realtime_ns")!) - BigInt(set.get("realtime_ns")!) - 100_000_000_000_000_000n;
  expect(shifted).toBeGreaterThanOrEqual(0n);
  expect(shifted).toBeLessThan(100_000_000_000n);
  machine.request(Frame.THAW, ["id", "t1"]);
  expect((await machine.ack("t1")).get("ok")).toBe("1");
  await machine.ended();
  expect(lines(machine).slice(-6).map((line) => line.trim())).toEqual([
    "newname", "newname", "10.9.0.8\tnewname", "10.9.0.8/32", "default via 10.9.0.2 dev eth0  src 10.9.0.8 onlink", "02:00:00:00:00:08",
  ]);
}, LIMIT);

test("a bad wake is refused with its reason, and the workload stays", async () => {
  const machine = await sh("read x < /tmp/none; sleep 1000000");
  await machine.state("running");
  machine.request(Frame.WAKE, ["id", "a"], ["seed", "xyz"]);
  expect((await machine.ack("a")).get("error")).toContain("seed");
  machine.request(Frame.WAKE, ["id", "c"], ["offset_ns", "1e9"]);
  expect((await machine.ack("c")).get("error")).toContain("offset_ns");
  machine.request(Frame.WAKE, ["id", "b"], ["ip", "10.0.0.1"], ["gateway", "10.0.0.2"]);
  expect((await machine.ack("b")).get("error")).toContain("no interface eth0");
  machine.request(Frame.SHUTDOWN, ["signal", "9"], ["grace_ms", "1000"]);
  expect((await machine.ended()).get("message")).toBe("killed by signal 9 (SIGKILL)");
}, LIMIT);

test("SHUTDOWN reaches a frozen workload", async () => {
  const machine = await sh("trap 'exit 21' TERM; echo ready; while :; do sleep 0.02; done");
  await machine.text("ready");
  machine.request(Frame.FREEZE, ["id", "f"]);
  await machine.ack("f");
  machine.request(Frame.SHUTDOWN, ["signal", "0"], ["grace_ms", "60000"]);
  expect((await machine.ended()).get("code")).toBe("21");
}, LIMIT);

test("a workload with a terminal owns /dev/console", async () => {
  const machine = await sh("tty; stty size; echo console > /dev/console; test -c /dev/console && echo device", [["tty", "1"], ["rows", "40"], ["cols", "100"]]);
  await machine.ended();
  expect(machine.output).toBe("/dev/pts/0\r\n40 100\r\nconsole\r\ndevice\r\n");
}, LIMIT);

test("5 MB of output leave the machine before its end is reported", async () => {
  const machine = await sh("dd if=/dev/zero bs=1M count=5 2>/dev/null | tr '\\0' x");
  await machine.ended();
  expect(machine.output.length).toBe(5 * 1024 * 1024);
}, LIMIT);
