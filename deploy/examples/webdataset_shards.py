"""Read webdataset shards in their order while the later ones are still on their way to flash.

python webdataset_shards.py laion/2026-10
"""

import argparse
from collections.abc import Iterator

import webdataset

from tierd.client import Tierd, Warm


def arriving(warm: Warm, shards: list[str]) -> Iterator[dict[str, str]]:
    """The shards, each as soon as it can be read."""
    for shard in shards:
        warm.wait_until(file=shard)  # at once from HDD or flash; from a bucket as soon as it has come
        yield {"url": str(warm.path / shard)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("snapshot", help="dataset/snapshot: a folder of shard-000000.tar, shard-000001.tar, …")
    parser.add_argument("--shards", type=int, required=True, help="how many there are")
    args = parser.parse_args()
    shards = [f"shard-{number:06}.tar" for number in range(args.shards)]

    # `first`: brought from a bucket before the others, as they are read first.
    warm = Tierd().warm(args.snapshot, lease="8h", first=shards[:8], wait=False)
    with warm:
        samples = webdataset.DataPipeline(
            lambda: arriving(warm, shards),
            webdataset.tarfile_to_samples(),
            webdataset.decode(),
            webdataset.to_tuple("txt", "cls"),
        )
        count = total = 0
        for text, label in samples:
            count, total = count + 1, total + len(text) * label
        print(f"first pass: {count} samples, sum {total}")

        warm.wait()  # from now on all of it is on flash: shuffle, use workers, read it again and again
        urls = [str(warm.path / shard) for shard in shards]
        again = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(100).decode().to_tuple("txt", "cls")
        print(f"second pass: {sum(1 for _ in again)} samples")


if __name__ == "__main__":
    main()
