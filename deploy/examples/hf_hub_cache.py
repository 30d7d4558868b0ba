"""Load from a Hugging Face hub cache that lies on flash and is kept by tierd.

Either the whole cache is a snapshot, or each repository in it is one. Then set HF_HUB_DISABLE_SHARED_BLOBS=1 where
downloads are made: repositories must not link to files that they share, as each of them moves alone.

python hf_hub_cache.py shared/hub mistralai/Mistral-7B-v0.1
python hf_hub_cache.py hub/models--mistralai--Mistral-7B-v0.1 mistralai/Mistral-7B-v0.1
"""

import argparse
from pathlib import Path

from huggingface_hub import scan_cache_dir, snapshot_download

from tierd.client import Tierd


def main() -> None:
    parser = argparse.ArgumentParser(description="Read a repository from a hub cache, from flash.")
    parser.add_argument("snapshot", help="dataset/snapshot: the cache, or a repository in it")
    parser.add_argument("repo", help="organization/name on the hub")
    parser.add_argument("--type", choices=["model", "dataset"], default="model")
    args = parser.parse_args()

    with Tierd().warm(args.snapshot, lease="8h") as path:
        cache = path.parent if path.name.startswith(("models--", "datasets--")) else path
        # What is in the cache already; to download more, leave local_files_only out: tierd takes it for a change.
        local = snapshot_download(args.repo, repo_type=args.type, cache_dir=cache, local_files_only=True)
        files = [file for file in Path(local).rglob("*") if file.is_file()]
        content = sum(len(file.read_bytes()) for file in files)  # here transformers, safetensors … load them
        print(f"{args.repo}: {len(files)} files, {content} bytes at {local}")
        # Repositories whose only copy is in a bucket are in `warnings`: their paths lead nowhere until they are warmed.
        report = scan_cache_dir(cache)
        for found in report.repos:
            print(f"{found.repo_id}: {found.size_on_disk} bytes on disk, {len(found.revisions)} revisions")


if __name__ == "__main__":
    main()
