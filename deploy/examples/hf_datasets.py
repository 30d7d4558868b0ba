"""Read a Hugging Face dataset that `save_to_disk` wrote, memory-mapped from flash.

python hf_datasets.py corpora/wiki-2026-11
"""

import argparse

from datasets import load_from_disk

from tierd.client import Tierd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("snapshot", help="dataset/snapshot: a folder that save_to_disk wrote")
    parser.add_argument("--by", help="when it must be on flash, like 09:00 or 2h: promised, or refused at once")
    args = parser.parse_args()

    warm = Tierd().warm(args.snapshot, lease="8h", by=args.by, wait=False)
    warm.wait_until(share=0.5)  # half of it is on flash: time to build the model, while the rest comes
    print(f"half of {args.snapshot} is on flash")

    # Map the files only once all is on flash: what was mapped from the cold tier before goes on being read there.
    warm.wait()
    with warm as path:
        data = load_from_disk(str(path))
        rows = characters = 0
        # In memory: by default shuffle and map leave a file in the snapshot, which then needs a new cold copy.
        for batch in data.shuffle(seed=1, keep_in_memory=True).iter(batch_size=64):
            rows += len(batch["text"])
            characters += sum(map(len, batch["text"]))
        print(f"{rows} rows, {characters} characters")
    # The lease is over. Files that are still mapped (`data` is alive) keep the snapshot on flash until they are not.


if __name__ == "__main__":
    main()
