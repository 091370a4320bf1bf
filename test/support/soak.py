"""A program that notices whatever a sleep takes from it. Light on the processor: machines that run it may be emulated.

On each CPU a process rewrites memory block by block and compares each with the sum it had; a loopback TCP stream carries numbered
records; a file grows by numbered lines; an interval timer counts; threads wait for timers. Everything that is not as it was left is
an error, kept for good. It is asked over HTTP, port 8000, one question at a time:
  GET /state                       counts and errors so far
  GET /check                       the same, after all memory and the whole file have been read again
  GET /timer?id=I&clock=C&ms=N     arms one; C is realtime, monotonic or boottime
  GET /timers                      when each fired, in ms of the realtime clock
  GET /draw                        random bytes from each source, and who this machine thinks it is
  GET /now                         the realtime clock in ms
"""
# Few modules: those for HTTP, JSON and URLs would be most of what this program does.
import _random, ctypes, math, mmap, os, select, socket, struct, threading, time, zlib

PORT = 8000
BLOCK = 4096  # a page: after a wake each is copied when it is first written to, which is most of what a guest with several CPUs costs then
BLOCKS = 128
RECORD = 1024
PACE = 0.05  # seconds between two steps of each
LINES_A_FILE = 5000
INTERVAL_MS = 100
CLOCKS = {"realtime": 0, "monotonic": 1, "boottime": 7}  # linux/time.h
TFD_TIMER_ABSTIME = 1
libc = ctypes.CDLL(None, use_errno=True)

errors = []
counts = {"ticks": 0, "records": 0, "lines": 0}
fired = {}


def fail(text):
    errors.append(text)
    print("soak:", text, flush=True)


def thread(work, *args):
    def run():
        try:
            work(*args)
        except Exception as error:
            fail(f"{work.__name__}: {error!r}")
    threading.Thread(target=run, daemon=True).start()


def fill(block, n):
    return struct.pack("<QQ", block, n) * (BLOCK // 16)


class Memory:
    """A process that is bound to one CPU. Shared with it: the rounds it has made, blocks that were wrong, and a request to read all."""

    def __init__(self, cpu):
        self.shared = mmap.mmap(-1, 4096)
        self.cpu = cpu
        if os.fork() == 0:
            try:
                os.sched_setaffinity(0, {cpu})
                self.work()
            finally:
                os._exit(1)

    def get(self, at):
        return struct.unpack_from("<Q", self.shared, at * 8)[0]

    def put(self, at, value):
        struct.pack_into("<Q", self.shared, at * 8, value)

    def work(self):
        blocks = [bytearray(fill(i, 0)) for i in range(BLOCKS)]
        sums = [zlib.crc32(block) for block in blocks]
        root = sum(math.sqrt(k) for k in range(100))
        n = 0
        while True:
            i = n % BLOCKS
            if zlib.crc32(blocks[i]) != sums[i] or sum(math.sqrt(k) for k in range(100)) != root:
                self.put(1, self.get(1) + 1)
            n += 1
            blocks[i][:] = fill(i, n)
            sums[i] = zlib.crc32(blocks[i])
            self.put(0, n)
            if self.get(2) != self.get(3):
                wanted = self.get(2)
                self.put(1, self.get(1) + sum(zlib.crc32(block) != crc for block, crc in zip(blocks, sums)))
                self.put(3, wanted)
            time.sleep(PACE)

    def read_all(self):
        wanted = self.get(2) + 1
        self.put(2, wanted)
        while self.get(3) != wanted:
            time.sleep(0.01)


def tick():
    last = time.monotonic()
    while True:
        time.sleep(PACE)
        now = time.monotonic()
        if now < last:
            fail(f"the monotonic clock went back from {last} to {now}")
        last = now
        counts["ticks"] += 1


def record(n):
    return struct.pack("<Q", n) * (RECORD // 8)


def send(stream):
    n = 0
    while True:
        stream.sendall(record(n))
        n += 1
        time.sleep(PACE)


def receive(stream):
    n = 0
    while True:
        got = b""
        while len(got) < RECORD:
            part = stream.recv(RECORD - len(got))
            if not part:
                raise EOFError(f"the stream ended after {n} records")
            got += part
        if got != record(n):
            raise ValueError(f"record {n} of the stream is wrong")
        n += 1
        counts["records"] = n


class Lines:
    """A file that is always half-written: at a check, all that was written must be there."""
    lock = threading.Lock()

    def work(self):
        while True:
            with open("/var/soak", "wb") as self.file:
                self.written = 0
                while self.written < LINES_A_FILE:
                    with self.lock:
                        self.file.write(self.line(self.written))
                        self.file.flush()
                        self.written += 1
                        counts["lines"] += 1
                    if self.written % 50 == 0:
                        os.fsync(self.file.fileno())
                    time.sleep(PACE)

    @staticmethod
    def line(n):
        return b"%08d %08x\n" % (n, zlib.crc32(b"%d" % n))

    def check(self):
        with self.lock, open("/var/soak", "rb") as file:
            text = file.read()
            if text != b"".join(self.line(n) for n in range(self.written)):
                fail(f"the file of {self.written} lines is not what was written")


def timer_fd(clock, first_ns, interval_ns, flags):
    fd = libc.timerfd_create(CLOCKS[clock], 0)
    spec = (ctypes.c_long * 4)(*divmod(interval_ns, 10**9), *divmod(first_ns, 10**9))
    if fd < 0 or libc.timerfd_settime(fd, flags, spec, None) != 0:
        raise OSError(ctypes.get_errno(), "timerfd")
    return fd


def expirations(fd):
    return struct.unpack("<Q", os.read(fd, 8))[0]


class Timers:
    """Each fires once. A descriptor stays open for many more, so that a second time would be seen."""
    KEPT = 100

    def __init__(self):
        self.epoll = select.epoll()
        self.names = {}

    def work(self):
        while True:
            for fd, _ in self.epoll.poll():
                for _ in range(expirations(fd)):
                    fired[self.names[fd]].append(time.time() * 1000)

    def arm(self, name, clock, ms):
        due = time.clock_gettime_ns(CLOCKS[clock]) + ms * 10**6
        fired[name] = []
        if len(self.names) >= self.KEPT:
            oldest = next(iter(self.names))
            del self.names[oldest]
            os.close(oldest)
        fd = timer_fd(clock, due, 0, TFD_TIMER_ABSTIME)
        self.names[fd] = name
        self.epoll.register(fd, select.EPOLLIN)


def interval():
    """All expirations of an interval timer are told, late or not: as many as its clock says."""
    before = time.monotonic()
    fd = timer_fd("monotonic", INTERVAL_MS * 10**6, INTERVAL_MS * 10**6, 0)
    after = time.monotonic()
    told = 0
    while True:
        least = (time.monotonic() - after) * 1000 / INTERVAL_MS - 1
        told += expirations(fd)
        most = (time.monotonic() - before) * 1000 / INTERVAL_MS + 1
        if not least <= told <= most:
            fail(f"an interval timer told {told} expirations, of {least:.1f} to {most:.1f}")
        counts["intervals"] = told


own = None


def draw():
    """The program's own generator is seeded when it is first asked: in a fork, after it woke."""
    global own
    own = own or _random.Random(int.from_bytes(os.getrandom(16), "little"))
    with open("/dev/urandom", "rb", buffering=0) as urandom:
        drawn = {"urandom": urandom.read(16).hex(), "getrandom": os.getrandom(16).hex(), "own": f"{own.getrandbits(128):032x}"}
    with open("/etc/hosts") as hosts, open("/etc/hostname") as hostname:
        return {**drawn, "hosts": hosts.read(), "hostname_file": hostname.read().strip(), "hostname": socket.gethostname(), "address": address()}


def address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return probe.getsockname()[0]


def boot_id():
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def state():
    wrong = sum(memory.get(1) for memory in memories)
    return {
        "errors": errors + ([f"{wrong} blocks of memory were wrong"] if wrong else []), "boot_id": boot_id(),
        "counts": {**counts, **{f"memory{memory.cpu}": memory.get(0) for memory in memories}},
    }


def check():
    for memory in memories:
        memory.read_all()
    lines.check()
    return state()


def encode(value):
    """As JSON."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{encode(key)}:{encode(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encode, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in value) + '"'
    return "null" if value is None else repr(value)


ROUTES = {
    "/state": lambda _: state(), "/check": lambda _: check(), "/draw": lambda _: draw(), "/now": lambda _: time.time() * 1000, "/timers": lambda _: fired,
    "/timer": lambda query: timers.arm(query["id"], query["clock"], int(query["ms"])),
}


def answer(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(4096)
        if not part:
            return
        head += part
    path, _, query = head.split()[1].decode().partition("?")
    body = encode(ROUTES[path](dict(pair.split("=") for pair in query.split("&") if pair))).encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def serve(server):
    while True:
        connection, _ = server.accept()
        try:
            with connection:
                answer(connection)
        except Exception as error:
            print(f"soak: a question was not answered: {error!r}", flush=True)


memories = [Memory(cpu) for cpu in sorted(os.sched_getaffinity(0))]
lines = Lines()
timers = Timers()
listener = socket.create_server(("127.0.0.1", 0))
sending = socket.create_connection(listener.getsockname())
for work, *args in [(tick,), (interval,), (send, sending), (receive, listener.accept()[0]), (lines.work,), (timers.work,)]:
    thread(work, *args)
serve(socket.create_server(("0.0.0.0", PORT)))
