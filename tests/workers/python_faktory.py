"""A real worker on the PyPI package ``faktory``, run as a child process by the tests.

Usage: ``python_faktory.py --queues a,b --concurrency N``; the server is in ``FAKTORY_URL``.
"""

import argparse
import time

from faktory import Worker


def sleep(seconds: float) -> None:
    """Take this long."""
    time.sleep(seconds)


def fail(*_: object) -> None:
    """Fail at once."""
    raise RuntimeError("this job always fails")


def main() -> None:
    """Work until SIGTERM, as the library handles it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--queues", default="default")
    parser.add_argument("--concurrency", type=int, default=1)
    arguments = parser.parse_args()
    worker = Worker(queues=arguments.queues.split(","), concurrency=arguments.concurrency)
    worker.register("sleep", sleep)
    worker.register("fail", fail)
    worker.run()


if __name__ == "__main__":
    main()
