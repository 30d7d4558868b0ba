"""Train on a folder of images, one folder per class, with a PyTorch DataLoader over a warmed snapshot.

python pytorch_imagefolder.py imagenet/v3 --workers 8
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tierd.client import Tierd


class ImageFolder(Dataset):
    """As torchvision's. It keeps the path that tierd gave: a resolved one would stay on the tier of that moment."""

    def __init__(self, root: Path) -> None:
        self.classes = sorted(folder for folder in root.iterdir() if folder.is_dir())
        self.samples = [(file, label) for label, folder in enumerate(self.classes) for file in sorted(folder.iterdir())]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        file, label = self.samples[index]
        with Image.open(file) as image:
            pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
            return pixels / 255, label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("snapshot", help="dataset/snapshot, with images of one size")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    # The lease is renewed while the block runs and ends with it, or with this process, however that ends.
    with Tierd().warm(args.snapshot, lease="8h") as path:
        data = ImageFolder(path)
        # Workers may be forked or spawned: only the process that asked renews the lease and ends it.
        loader = DataLoader(data, 8, shuffle=True, num_workers=args.workers)
        model = torch.nn.Linear(len(data[0][0]), len(data.classes))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for epoch in range(args.epochs):
            seen, brightness = 0, 0.0
            for images, labels in loader:
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                seen, brightness = seen + len(labels), brightness + images.double().mean(dim=1).sum().item()
            print(f"epoch {epoch}: {seen} images, mean {brightness / seen:.6f}, loss {loss.item():.3f}", flush=True)


if __name__ == "__main__":
    main()
