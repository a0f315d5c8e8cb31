"""The programs of bench-preload: `programs.py CASE`. Each does what people do with NumPy, pandas,
scikit-learn and PyTorch, in their words, or starts what people run: nothing here knows of an allocator.
Prints one JSON line of what the measured part cost; imports and the first turns are not in it. With
BENCH_IDLE_SECONDS a second line: what is resident so long after the work."""
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

CASES = {}
MIB = 1 << 20


def case(turns, warm=3, group="numpy"):
    """How often it is done, and how often before that. A group is what has to be installed; the blocks
    of "small" are small."""

    def enter(make):
        CASES[make.__name__] = (make, turns, warm, group)
        return make

    return enter


def array(mib):
    import numpy as np

    return np.random.default_rng(1).random(int(mib * MIB / 8))


@case(30)
def elementwise_16M():
    import numpy as np

    a, b = array(16), array(16)
    return lambda: float((np.sqrt(a * b + 1.0) - a * 0.5)[-1])


@case(6000, warm=100)
def elementwise_64K():
    a, b = array(0.0625), array(0.0625)
    return lambda: float((a * b + 1.0 - a * 0.5)[-1])


@case(400)
def elementwise_1M():
    import numpy as np

    a, b = array(1), array(1)
    return lambda: float((np.sqrt(a * b + 1.0) - a * 0.5)[-1])


@case(100)
def elementwise_4M():
    import numpy as np

    a, b = array(4), array(4)
    return lambda: float((np.sqrt(a * b + 1.0) - a * 0.5)[-1])


@case(10)
def elementwise_64M():
    import numpy as np

    a, b = array(64), array(64)
    return lambda: float((np.sqrt(a * b + 1.0) - a * 0.5)[-1])


@case(6000, warm=100)
def elementwise_128K():
    a, b = array(0.125), array(0.125)
    return lambda: float((a * b + 1.0 - a * 0.5)[-1])


@case(8)
def live_12x8M():
    a = array(8)
    return lambda: sum(float(block[-1]) for block in [a * n for n in range(12)])


@case(10)
def fft():
    import numpy as np

    a = array(16).reshape(256, -1)
    return lambda: float(np.fft.irfft(np.fft.rfft(a) * 0.5)[0, 0])


@case(30)
def image_batch():
    import numpy as np

    images = np.random.default_rng(2).integers(0, 255, (16, 224, 224, 3), dtype=np.uint8)

    def turn():
        batch = images.astype(np.float32) / 255.0
        batch = (batch - batch.mean(axis=(1, 2), keepdims=True)) / 0.25
        return float(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))[0, 0, 0, 0])

    return turn


@case(200)
def zeros_4M():
    import numpy as np

    def turn():
        a = np.zeros(MIB // 2)
        a += 1
        return float(a[-1])

    return turn


@case(2000)
def zeros_untouched_64M():
    import numpy as np

    return lambda: float(np.zeros(8 * MIB)[12345])


@case(10)
def growing_list():
    import array as arrays

    def turn():
        values = arrays.array("d")
        for n in range(400):
            values.frombytes(bytes(20000))
        return len(values)

    return turn


@case(6, group="pandas")
def groupby_merge():
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(3)
    rows = 300_000
    sales = pd.DataFrame({
        "shop": random.integers(0, 2000, rows), "item": random.integers(0, 500, rows),
        "price": random.random(rows), "count": random.integers(1, 9, rows),
    })
    shops = pd.DataFrame({"shop": np.arange(2000), "area": random.integers(0, 40, 2000)})

    def turn():
        joined = sales.merge(shops, on="shop")
        joined["paid"] = joined["price"] * joined["count"]
        table = joined.groupby(["area", "item"])["paid"].agg(["sum", "mean", "max"])
        return float(table.sort_values("sum")["mean"].iloc[-1])

    return turn


def samples(rows, columns):
    import numpy as np

    random = np.random.default_rng(4)
    data = random.random((rows, columns))
    return data, (data[:, 0] + data[:, 1] * data[:, 2] > 0.75).astype(int)


@case(3, warm=1, group="sklearn")
def gradient_boosting():
    from sklearn.ensemble import HistGradientBoostingClassifier

    data, label = samples(20_000, 20)
    return lambda: HistGradientBoostingClassifier(max_iter=20, random_state=1).fit(data, label).n_iter_


@case(4, warm=1, group="sklearn")
def kmeans():
    from sklearn.cluster import KMeans

    data, _ = samples(40_000, 32)
    return lambda: float(KMeans(8, n_init=1, max_iter=20, random_state=1).fit(data).inertia_)


@case(4, warm=1, group="sklearn")
def polynomial_pca():
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    data, _ = samples(10_000, 16)
    model = make_pipeline(PolynomialFeatures(2), StandardScaler(), PCA(16, random_state=1))
    return lambda: float(model.fit_transform(data)[0, 0])


def torch_threads():
    import torch

    torch.set_num_threads(2)
    torch.manual_seed(1)
    return torch


@case(6, warm=2, group="torch")
def small_cnn_training():
    torch = torch_threads()
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 16 * 16, 10),
    )
    step = torch.optim.SGD(net.parameters(), lr=0.01)
    x, y = torch.randn(32, 3, 64, 64), torch.randint(0, 10, (32,))

    def turn():
        step.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        step.step()
        return float(loss.detach())

    return turn


@case(4, warm=2, group="torch")
def transformer_training():
    torch = torch_threads()
    layer = torch.nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, dropout=0.0)
    net = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    step = torch.optim.SGD(net.parameters(), lr=0.01)
    x = torch.randn(16, 128, 256)

    def turn():
        step.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        step.step()
        return float(loss.detach())

    return turn


@case(10, group="torch")
def transformer_lengths():
    torch = torch_threads()
    layer = torch.nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, dropout=0.0)
    net = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    lengths = iter(range(10**6))

    def turn():
        x = torch.randn(8, 64 + next(lengths) * 37 % 192, 256)
        loss = net(x).square().mean()
        loss.backward()
        return float(loss.detach())

    return turn


@case(4, warm=2, group="torch")
def resnet_inference():
    torch = torch_threads()
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, width, out, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
                nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
            )
            self.aside = nn.Sequential()
            if stride != 1 or width != out:
                self.aside = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x):
            return torch.relu(self.body(x) + self.aside(x))

    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    for width, out, stride in [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]:
        layers += [Block(width, out, stride), Block(out, out, 1)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)).eval()
    x = torch.randn(8, 3, 224, 224)

    def turn():
        with torch.inference_mode():
            return float(net(x)[0, 0])

    return turn


@case(15, group="torch")
def elementwise_torch_16M():
    torch = torch_threads()
    a, b = torch.rand(4 * MIB), torch.rand(4 * MIB)
    return lambda: float((torch.sqrt(a * b + 1.0) - a * 0.5)[-1])


@case(4, group="small")
def python_objects():
    def turn():
        table = {}
        for n in range(60000):
            table[str(n)] = [n, (n, n + 1), {"n": n}]
        return len(table)

    return turn


SOURCE = "#include <stdio.h>\n" + "\n".join(
    f"static int f{n}(int a, int b) {{ int s = 0; for (int i = a; i < b; i++) s += i * {n} ^ (s >> {n % 7});"
    " return s; }" for n in range(250)
) + "\nint main(void) { int s = 0; " + "".join(f"s += f{n}(1, {n});" for n in range(250)) + " return s; }\n"


@case(1, warm=0, group="small")
def gcc():
    def turn():
        command = ["cc", "-O2", "-x", "c", "-", "-S", "-o", "/dev/null"]
        return subprocess.run(command, input=SOURCE.encode(), check=True).returncode

    return turn


@case(1, warm=0, group="small")
def sqlite():
    script = (
        "pragma journal_mode=off; create table t(a integer primary key, b text, c real);"
        "with recursive n(i) as (select 1 union all select i+1 from n where i<100000) "
        "insert into t select i, 'row ' || (i*7919 % 10007), i/3.0 from n;"
        "create index x on t(b); select count(*), sum(c) from t where b > 'row 5'; "
        "select b, count(*) from t group by b order by 2 desc, 1 limit 3;"
    )

    def turn():
        command = ["sqlite3", ":memory:", script]
        return subprocess.run(command, check=True, stdout=subprocess.DEVNULL).returncode

    return turn


@case(1, warm=0, group="small")
def cpython_tests():
    command = [sys.executable, "-m", "test", "-q", "test_list", "test_dict", "test_json", "test_heapq"]

    def turn():
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stdout[-2000:])
        return done.returncode

    return turn


class Redis:
    """A server with values of some size, and the program that comes with it asking."""

    def __init__(self, value):
        tools = os.environ["BENCH_REDIS"]
        self.folder = tempfile.TemporaryDirectory()
        self.socket = os.path.join(self.folder.name, "socket")
        command = [
            os.path.join(tools, "redis-server"), "--port", "0", "--unixsocket", self.socket, "--save", "",
            "--appendonly", "no", "--dir", self.folder.name,
        ]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not os.path.exists(self.socket):
            if self.server.poll() is not None:
                raise RuntimeError(f"redis-server ends with {self.server.returncode}")
            time.sleep(0.01)
        # Who asks is not measured: it has the C library's allocator.
        self.plain = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "GLIBC_TUNABLES")}
        self.ask = [os.path.join(tools, "redis-benchmark"), "-s", self.socket, "-q", "-d", str(value)]

    def turn(self, tests, requests, keys, pipelined):
        more = ["-t", tests, "-n", str(requests), "-r", str(keys), "-P", str(pipelined)]
        done = subprocess.run(self.ask + more, env=self.plain, check=True, capture_output=True, text=True)
        if "requests per second" not in done.stdout:
            raise RuntimeError(done.stdout[-2000:])

    def used(self):
        """What the server took so far: nanoseconds of all its threads, faults, the peak."""
        folder = f"/proc/{self.server.pid}"
        ran = 0
        for thread in os.listdir(folder + "/task"):
            with open(f"{folder}/task/{thread}/schedstat", encoding="ascii") as file:
                ran += int(file.read().split()[0])
        with open(folder + "/stat", encoding="ascii") as file:
            faults = int(file.read().rsplit(")", 1)[1].split()[7])
        with open(folder + "/status", encoding="ascii") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
        return ran / 1e9, faults, peak

    def end(self):
        self.server.terminate()
        if self.server.wait() != 0:
            raise RuntimeError(f"redis-server ends with {self.server.returncode}")


@case(1, warm=0, group="redis-small")
def redis():
    server = Redis(value=512)
    return server, lambda: server.turn("set,get,incr,lpush,lpop,sadd,hset,zadd", 30_000, 100_000, 16)


@case(1, warm=0, group="redis")
def redis_256K_values():
    server = Redis(value=256 << 10)
    return server, lambda: server.turn("set,get", 2_000, 400, 1)


def usage(who):
    numbers = resource.getrusage(who)
    return numbers.ru_utime + numbers.ru_stime, numbers.ru_minflt, numbers.ru_maxrss


def resident(process):
    with open(f"/proc/{process}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def say(**numbers):
    print(json.dumps(numbers), flush=True)


def main():
    name = sys.argv[1]
    if name == "--list":
        for known, (_, _, _, group) in CASES.items():
            print(known, group)
        return
    make, turns, warm, group = CASES[name]
    # Programs that are started are measured with what they do before main; a server is another process.
    started = name in ("gcc", "sqlite", "cpython_tests")
    who = resource.RUSAGE_CHILDREN if started else resource.RUSAGE_SELF
    turn, used, process, end = make(), lambda: usage(who), "self", None
    if group.startswith("redis"):
        server, turn = turn
        used, process, end = server.used, server.server.pid, server.end
    for _ in range(warm):
        turn()
    cpu, faults, _ = used()
    start = time.perf_counter()
    for _ in range(turns):
        turn()
    wall = time.perf_counter() - start
    cpu_after, faults_after, peak = used()
    say(
        wall_ms=wall / turns * 1e3, cpu_ms=(cpu_after - cpu) / turns * 1e3,
        faults=(faults_after - faults) / turns, peak_mib=peak / 1024,
    )
    idle = float(os.environ.get("BENCH_IDLE_SECONDS", "0"))
    left = None
    if idle > 0 and not started:
        time.sleep(idle)
        left = resident(process)
    say(idle_mib=left)
    if end:
        end()


if __name__ == "__main__":
    main()
