"""A real worker on the PyPI package ``pyfaktory``, run as a child process by the tests.

Usage: ``python_pyfaktory.py --queues a,b --concurrency N``; the server is in ``FAKTORY_URL``.
"""

import argparse
import time

from pyfaktory import Client, Consumer


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
    with Client(role="consumer") as client:
        consumer = Consumer(client, queues=arguments.queues.split(","), concurrency=arguments.concurrency)
        consumer.register("sleep", sleep)
        consumer.register("fail", fail)
        consumer.run()


if __name__ == "__main__":
    main()
