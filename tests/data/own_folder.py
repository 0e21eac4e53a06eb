"""Data sets of one's own, as tests make them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def own_folder(folder: Path, rows) -> Path:
    """A folder that source `folder` reads.

    Args:
      folder: to make.
      rows: caption, two pictures, as arrays or as the bytes of a file, and further fields.
    """
    folder.mkdir(parents=True)
    lines = []
    for i, (caption, *pictures, fields) in enumerate(rows):
        names = [f"{i}-{side}.png" for side in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            if isinstance(picture, np.ndarray):
                Image.fromarray(picture).save(folder / name)
            elif picture is not None:
                (folder / name).write_bytes(picture)
        lines.append({"caption": caption, "images": names, "winner": 0} | fields)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "pairs.jsonl").write_text(text, encoding="utf-8")
    return folder
