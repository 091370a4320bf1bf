// Copies and stats of the product's own code on the agent of test/guest-agent, in place of a guest's.
import { join } from "node:path";
import { SOCKET, sockaddr_un } from "../../src/ffi/abi/socket.ts";
import { SYS } from "../../src/ffi/abi/syscalls.ts";
import { must } from "../../src/ffi/syscall.ts";
import { askStat, copyFrame, openCopy, statFrame } from "../../src/host/agent/copy.ts";
import type { InstanceService } from "../../src/host/instances/service.ts";

function dial(path: string): number {
  const address = new Uint8Array(sockaddr_un.size), text = Buffer.from(path);
  if (text.length >= sockaddr_un.sizes.sun_path) throw new Error(`${path} is too long for a socket`);
  new DataView(address.buffer).setUint16(sockaddr_un.at.sun_family, SOCKET.AF_UNIX, true);
  address.set(text, sockaddr_un.at.sun_path);
  const fd = must("Cannot make a socket", SYS.socket, SOCKET.AF_UNIX, SOCKET.SOCK_STREAM | SOCKET.SOCK_NONBLOCK | SOCKET.SOCK_CLOEXEC, 0);
  must(`Cannot connect to ${path}`, SYS.connect, fd, address, address.length);
  return fd;
}

/** `folder`: the harness's. */
export function agentFiles(folder: string): Pick<InstanceService, "copy" | "stat"> {
  const socket = join(folder, "agent.sock");
  return {
    copy: (_ref, request, listener) => copyFrame(request).andThen((frame) => openCopy(dial(socket), frame, listener)),
    stat: (_ref, request) => statFrame(request).andThen((frame) => askStat(dial(socket), frame, 10_000)),
  };
}
