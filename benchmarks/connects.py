"""Connect to 127.0.0.1:PORT TIMES times; print the median in microseconds."""

import socket
import statistics
import sys
import time


def once(port: int) -> int:
    with socket.socket() as sock:
        start = time.perf_counter_ns()
        sock.connect(("127.0.0.1", port))
        return time.perf_counter_ns() - start


if __name__ == "__main__":
    times = [once(int(sys.argv[1])) for _ in range(int(sys.argv[2]))]
    print(statistics.median(times) / 1e3)
