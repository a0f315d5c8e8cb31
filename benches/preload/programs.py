"""The programs of bench-preload: `programs.py CASE`. Each does what people do with NumPy and PyTorch,
in their words: nothing here knows of an allocator. Prints one JSON line of what the measured part
cost; imports and the first turns are not in it."""
import json
import os
import resource
import subprocess
import sys
import time

CASES = {}
MIB = 1 << 20


def case(turns, warm=3, group="numpy"):
    """How often it is done, and how often before that."""

    def enter(make):
        CASES[make.__name__] = (make, turns, warm, group)
        return make

    return enter


def array(mib):
    import numpy as np

    return np.random.default_rng(1).random(int(mib * MIB / 8))


@case(40)
def elementwise_16M():
    import numpy as np

    a, b = array(16), array(16)
    return lambda: float((np.sqrt(a * b + 1.0) - a * 0.5)[-1])


@case(6000, warm=100)
def elementwise_64K():
    a, b = array(0.0625), array(0.0625)
    return lambda: float((a * b + 1.0 - a * 0.5)[-1])


@case(600)
def elementwise_1M():
    import numpy as np

    a, b = array(1), array(1)
    return lambda: float((np.sqrt(a * b + 1.0) - a * 0.5)[-1])


@case(6000, warm=100)
def elementwise_128K():
    a, b = array(0.125), array(0.125)
    return lambda: float((a * b + 1.0 - a * 0.5)[-1])


@case(12)
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


def usage(who):
    numbers = resource.getrusage(who)
    return numbers.ru_utime + numbers.ru_stime, numbers.ru_minflt, numbers.ru_maxrss


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main():
    name = sys.argv[1]
    if name == "--list":
        for known, (_, _, _, group) in CASES.items():
            print(known, group)
        return
    make, turns, warm, _ = CASES[name]
    # Programs that are started are measured with what they do before main.
    who = resource.RUSAGE_CHILDREN if name in ("gcc", "sqlite") else resource.RUSAGE_SELF
    turn = make()
    for _ in range(warm):
        turn()
    cpu, faults, _ = usage(who)
    start = time.perf_counter()
    for _ in range(turns):
        turn()
    wall = time.perf_counter() - start
    cpu_after, faults_after, peak = usage(who)
    result = {
        "wall_ms": wall / turns * 1e3,
        "cpu_ms": (cpu_after - cpu) / turns * 1e3,
        "faults": (faults_after - faults) / turns,
        "peak_mib": peak / 1024,
    }
    idle = float(os.environ.get("BENCH_IDLE_SECONDS", "0"))
    if idle > 0:
        time.sleep(idle)
        result["idle_mib"] = resident() / MIB
    print(json.dumps(result))


if __name__ == "__main__":
    main()
