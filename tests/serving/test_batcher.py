"""Batches: order, size, waiting, the bound of the queue, errors, the end."""

import asyncio
import threading
import time

import pytest

from jaxdino.serving.server.batcher import Batcher, Busy, bucket, buckets


def run(work):
    """Run a coroutine function with a batcher's maker; batches that were computed are collected."""

    async def main():
        loop, sizes = asyncio.get_running_loop(), []

        def made(compute=lambda items: items, **how):
            def counted(items):
                sizes.append(len(items))
                return compute(items)

            return Batcher(counted, loop, **({"max_batch": 4, "max_wait": 0.2, "max_queue": 100} | how))

        return await work(made, loop, sizes)

    return asyncio.run(main())


def test_sizes_are_powers_of_two():
    assert buckets(8) == [1, 2, 4, 8]
    assert [bucket(n) for n in (1, 2, 3, 4, 5, 8)] == [1, 2, 4, 4, 8, 8]


def test_results_come_in_order_and_batches_fill_up_to_the_largest():
    async def work(made, loop, sizes):
        batcher = made(lambda items: [item * 10 for item in items])
        futures = [loop.create_future() for _ in range(9)]
        batcher.reserve(9)
        for n, future in enumerate(futures):
            batcher.put(n, future)
        assert await asyncio.gather(*futures) == [n * 10 for n in range(9)]
        batcher.release(9)
        await loop.run_in_executor(None, batcher.close)
        assert max(sizes) == 4
        assert sum(sizes) == 9
        assert batcher.held == 0

    run(work)


def test_an_image_alone_does_not_wait_and_one_that_is_expected_is_waited_for_within_the_bound():
    async def work(made, loop, sizes):
        batcher, start = made(), time.monotonic()
        batcher.reserve(1)
        alone = loop.create_future()
        batcher.put(1, alone)
        await alone
        assert time.monotonic() - start < 0.15
        batcher.reserve(2)
        late, start = loop.create_future(), time.monotonic()
        batcher.put(1, late)  # the second is never put
        await late
        assert 0.15 < time.monotonic() - start < 2
        batcher.skip()
        await loop.run_in_executor(None, batcher.close)

    run(work)


def test_a_full_queue_refuses_and_an_error_fails_only_its_batch():
    async def work(made, loop, sizes):
        def compute(items):
            if "bad" in items:
                raise ValueError("wrong")
            return items

        batcher = made(compute, max_queue=2)
        batcher.reserve(2)
        with pytest.raises(Busy):
            batcher.reserve(1)
        bad, good = loop.create_future(), loop.create_future()
        batcher.put("bad", bad)
        batcher.skip()
        with pytest.raises(ValueError, match="wrong"):
            await bad
        batcher.release(2)
        batcher.reserve(1)
        batcher.put("good", good)
        assert await good == "good"
        await loop.run_in_executor(None, batcher.close)

    run(work)


def test_what_was_given_up_is_not_computed():
    async def work(made, loop, sizes):
        gate, seen = threading.Event(), []

        def compute(items):
            gate.wait(5)
            seen.extend(items)
            return items

        batcher = made(compute, max_batch=1)
        futures = [loop.create_future() for _ in range(3)]
        batcher.reserve(3)
        for n, future in enumerate(futures):
            batcher.put(n, future)
        futures[1].cancel()
        gate.set()
        await asyncio.gather(futures[0], futures[2])
        await loop.run_in_executor(None, batcher.close)
        assert seen == [0, 2]

    run(work)


@pytest.mark.parametrize(("slower", "sizes"), [(1.0, [8]), (2.5, [4, 2, 1])])
def test_images_are_padded_only_if_that_takes_less_time_for_each(slower, sizes):
    """Of a device that computes 8 images in the time of 4 all seven are computed together."""

    async def work(made, loop, _):
        batcher = made(max_batch=8, max_wait=0)
        batcher._seconds = {1: 1.0, 2: slower, 4: slower**2, 8: slower**3}
        waiting, found = 7, []
        while waiting:
            found.append(batcher._size(waiting))
            waiting -= found[-1]
        await loop.run_in_executor(None, batcher.close)
        return found

    assert [bucket(size) for size in run(work)] == sizes
